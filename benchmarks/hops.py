"""How many of trimtab's own files take part in one prompt: `trimtab run` of a small recipe, then `trimtab steer`.

    python benchmarks/hops.py [--list]

A file takes part when one of its functions or class bodies' methods is called while the commands run; what is only
imported does not count. The model is a random Llama of two blocks with the embedded model's tokenizer, in a folder.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trimtab.flows.cli import main as trimtab
from trimtab.steering.model.embedded import embedded_folder

ROOT = Path(__file__).resolve().parents[1]
ROOMS = tuple(str(ROOT / name) + "/" for name in ("flows", "tasks", "store", "steering"))
SIZES = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
RECIPE = """\
name: hops
model: {model}
data: {{pairs: {pairs}}}
budget: {{kl: 0.2}}
judge: {{prompts: 2, tokens: 4, curve: [0.2], placebos: {{random: 1, covariance: 1, shuffled: 1}}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the files")
    listed = parser.parse_args().list
    for words, files in took_part():
        print(f"trimtab {words}: {len(files)} files")
        print("".join(f"  {name}\n" for name in sorted(files)) if listed else "", end="")


def took_part() -> Iterator[tuple[str, set[str]]]:
    """Command -> the files that took part in it, and in both."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = written_recipe(Path(folder))
        home = ("--home", f"{folder}/home")
        run = files_of(*home, "run", str(recipe))
        steer = files_of(*home, "steer", "hops", "How are you?", "--tokens", "4")
    yield from (("run", run), ("steer", steer), ("run and steer", run | steer))


def written_recipe(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=2, **SIZES))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = (ROOT / "recipes" / "cheerful.jsonl").read_text().splitlines(keepends=True)[:30]
    (folder / "pairs.jsonl").write_text("".join(rows))
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=folder / "model", pairs=folder / "pairs.jsonl"))
    return recipe


def files_of(*words: str) -> set[str]:
    """The files of trimtab with a function that this command called."""
    codes: set[CodeType] = set()

    def trace(frame: FrameType, event: str, _: object) -> None:
        codes.add(frame.f_code)  # None is returned: no line of the call is traced

    threading.settrace(trace)
    sys.settrace(trace)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            status = trimtab(words)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    if status != 0:
        raise SystemExit(f"trimtab {' '.join(words)} ended with {status}")
    return {code.co_filename for code in codes if called_in_a_room(code)}


def called_in_a_room(code: CodeType) -> bool:
    """Not the module's or a class's own body, which run when it is imported."""
    return code.co_filename.startswith(ROOMS) and code.co_flags & 0x1 != 0


if __name__ == "__main__":
    main()
