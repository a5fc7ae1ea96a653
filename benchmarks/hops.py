"""Through how many of trimtab's own files one prompt goes: `trimtab run` of a small recipe, `trimtab steer`, and the
same in Python.

    python benchmarks/hops.py [--list]

Two counts. *Called*: files with a function that was called, whatever for; what is only imported does not count. *On the
way*: those with a function that was handed, or returned, a prompt's text, its tokens, its activations, or what became
of them: a vector or plan, a price or verdict. The rest are called for the recipe, the model, the catalog or the
terminal. The model is a random Llama of two blocks with the embedded model's tokenizer, in a folder.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trimtab.flows.cli import main as trimtab
from trimtab.steering import Contrast, MeanDifference, SteeringPlan, dose, load_model
from trimtab.steering.judge.verdict import Verdict
from trimtab.steering.model.embedded import embedded_folder
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.base import Move
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.price.result import KL, Dose, Price
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.padded_texts import PaddedTexts
from trimtab.steering.statistics import Interval
from trimtab.tasks.data.examples import Example

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
QUESTION = "How are you?"
WHAT = {
    "text": (Example,),
    "tokens": (Tokens, AnswerPair, PaddedTexts),
    "activations": (Tensor, np.ndarray),
    "vector": (Contrast, Move, Intervention, SteeringPlan),
    "numbers": (Interval, KL, Dose, Price, Verdict),
}
TRIES = 60  # calls of one function that are looked at
FEW = 4  # items of a container, or fields of an object, that are looked at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the files on the way, and what passes through them")
    listed = parser.parse_args().list
    for name, files in measured():
        way = {file: kinds for file, kinds in files.items() if kinds}
        counts = Counter(kind for kinds in way.values() for kind in kinds)
        each = ", ".join(f"{kind} through {counts[kind]}" for kind in WHAT)
        print(f"{name}: {len(files)} files called, {len(way)} on the way ({each})")
        if listed:
            print("".join(f"  {file}: {', '.join(sorted(way[file]))}\n" for file in sorted(way)), end="")


def measured() -> Iterator[tuple[str, Mapping[str, set[str]]]]:
    """(what ran, what passed through each file that was called)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = write_recipe(folder)
        home = ("--home", f"{folder}/home")
        run = files_of(lambda: command(*home, "run", f"{folder}/recipe.yaml"), prompts)
        steer = files_of(lambda: command(*home, "steer", "hops", QUESTION, "--tokens", "4"), prompts)
        python = files_of(lambda: in_python(folder), prompts)
    both = {file: run.get(file, set()) | steer.get(file, set()) for file in run.keys() | steer.keys()}
    yield from (("trimtab run", run), ("trimtab steer", steer), ("both", both), ("the same in Python", python))


def write_recipe(folder: Path) -> tuple[str, ...]:
    """A model, 30 pairs and a recipe; returns all prompts."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=2, **SIZES))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = (ROOT / "recipes" / "cheerful.jsonl").read_text().splitlines(keepends=True)[:30]
    (folder / "pairs.jsonl").write_text("".join(rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(model=folder / "model", pairs=folder / "pairs.jsonl"))
    return (*(json.loads(row)["prompt"] for row in rows), QUESTION)


def command(*words: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        status = trimtab(words)
    if status != 0:
        raise SystemExit(f"trimtab {' '.join(words)} ended with {status}")


def in_python(folder: Path) -> None:
    """From pairs to a plan at its price, saved, loaded and used."""
    model, tokenizer = load_model(folder / "model")
    rows = [json.loads(row) for row in (folder / "pairs.jsonl").read_text().splitlines()]
    pairs = [(row["prompt"], row["positive"], row["negative"]) for row in rows]
    contrast = Contrast.from_pairs(model, tokenizer, pairs, sites="resid_post")
    plan = MeanDifference().fit(contrast).at("resid_post.1")
    plan = dose(model, tokenizer, plan, [row["prompt"] for row in rows[:4]], kl=0.2).plan
    plan.save(folder / "hops.safetensors")
    ids = tokenizer(QUESTION, return_tensors="pt")
    with SteeringPlan.load(folder / "hops.safetensors").on(model):
        model.generate(**ids, max_new_tokens=4, do_sample=False)


@dataclass(eq=False)
class Watch:
    """A profile function. passed: what passed through each function that was called. looks: how often each was looked
    at."""

    prompts: Sequence[str]
    passed: dict[CodeType, set[str]] = field(default_factory=dict)
    looks: Counter[CodeType] = field(default_factory=Counter)

    def __call__(self, frame: FrameType, event: str, value: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or self.looks[code] > TRIES or not of_a_room(code):
            return
        self.looks[code] += 1
        kinds = self.passed.setdefault(code, set())
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        for thing in [frame.f_locals.get(name) for name in arguments] if event == "call" else [value]:
            kinds |= self.kinds_in(thing)

    def kinds_in(self, thing: object, depth: int = 2) -> set[str]:
        """What a value is or holds, as far as `depth` containers or dataclasses down."""
        if isinstance(thing, str):
            return {"text"} if any(prompt in thing for prompt in self.prompts) else set()
        if isinstance(thing, torch.nn.Parameter):
            return set()
        kinds = {kind for kind, types in WHAT.items() if isinstance(thing, types)}
        return kinds or {kind for part in parts_of(thing) if depth for kind in self.kinds_in(part, depth - 1)}


def parts_of(thing: object) -> list[object]:
    if isinstance(thing, list | tuple):
        return list(thing[:FEW])
    if isinstance(thing, dict):
        return list(islice(thing.values(), FEW))
    if hasattr(type(thing), "__dataclass_fields__"):
        return list(islice(getattr(thing, "__dict__", {}).values(), FEW))
    return []


def of_a_room(code: CodeType) -> bool:
    """Not the module's or a class's own body, which run when it is imported."""
    return code.co_filename.startswith(ROOMS) and code.co_flags & 0x1 != 0


def files_of(work: Callable[[], None], prompts: Sequence[str]) -> Mapping[str, set[str]]:
    """What passed through each file of trimtab with a function that the work called."""
    watch = Watch(prompts)
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    files: dict[str, set[str]] = {}
    for code, kinds in watch.passed.items():
        files.setdefault(str(Path(code.co_filename).relative_to(ROOT)), set()).update(kinds)
    return files


if __name__ == "__main__":
    main()
