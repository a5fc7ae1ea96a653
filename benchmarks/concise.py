"""Tokens saved against accuracy kept: a conciseness plan on questions that the model can answer.

    python benchmarks/concise.py HOME concise@latest recipes/concise_questions.jsonl [--questions 60] [--tokens 64]

Questions are kept when the unsteered greedy answer holds the right one; they had no part in fitting or dosing. Beside
the plan: the plain words of the recipe's system prompt, and the base answers cut to the plan's mean length. A right
answer is the expected text as whole words, number words read as numbers.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch
from ratio import setting

from trimtab.steering.generate import Decoding, generate
from trimtab.steering.judge.statistics import mean_interval, paired_difference
from trimtab.steering.model.tokens import tokenize
from trimtab.steering.plan import SteeringPlan
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.prompts import form_of
from trimtab.tasks.recipe import make_recipe

FACTORS = (0.5, 1.0, 1.5, 2.0)
WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
NUMBERS = {word: str(n) for n, word in enumerate(WORDS.split())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home")
    parser.add_argument("plan")
    parser.add_argument("file", type=Path)
    for name, default in (("questions", 60), ("tokens", 64), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    artifact = Home.at(args.home).catalog.get(args.plan)
    recipe, plan = make_recipe(artifact.recipe), SteeringPlan.unpack(artifact)
    model, tokenizer = model_of(recipe.model)
    rows = [json.loads(line) for line in args.file.read_text().splitlines()][: args.questions]
    decoding = Decoding(args.tokens, temperature=0.0)

    def answers(plan, rows, system=None):
        prompts = [tokenize(tokenizer, row["question"], form=form_of(recipe, system)) for row in rows]
        return generate(model, prompts, plan, decoding)

    def right(written, rows) -> np.ndarray:
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
        return np.array([holds(text, row["answer"]) for text, row in zip(texts, rows, strict=True)], float)

    base = answers(None, rows)
    able = right(base, rows) > 0
    rows, base = (
        [r for r, ok in zip(rows, able, strict=True) if ok],
        [b for b, ok in zip(base, able, strict=True) if ok],
    )
    length = np.array([len(ids) for ids in base], float)
    print(setting(args.threads), end="\n\n")
    print(f"**{artifact.ref}**: {len(rows)} of {len(able)} questions that the model answers rightly, greedy, at most ")
    print(f"{args.tokens} tokens; the unsteered answers have {length.mean():.1f} tokens\n")
    print("| answered by | tokens | tokens saved | accuracy kept | accuracy of base answers cut to as many tokens |")
    print("|---|---|---|---|---|")

    def line(name: str, written) -> None:
        tokens = np.array([len(ids) for ids in written], float)
        saved, kept = paired_difference(length, tokens), mean_interval(right(written, rows))
        cut = mean_interval(right([ids[: round(tokens.mean())] for ids in base], rows))
        print(f"| {name} | {tokens.mean():.1f} | {shown(saved)} | {shown(kept, 2)} | {shown(cut, 2)} |")

    for factor in FACTORS:
        line(f"plan at {factor:g} x its strength", answers(plan.scaled(factor), rows))
    line("system prompt", answers(None, rows, recipe.judge.system_prompt))


def holds(text: str, answer: str) -> bool:
    """Whether the expected answer stands in the text as whole words."""
    return f" {normal(answer)} " in f" {normal(text)} "


def normal(text: str) -> str:
    words = re.findall(r"[a-z]+|\d+(?:[.,]\d+)*", text.lower())
    return " ".join(NUMBERS.get(word, word.replace(",", "")) for word in words)


def shown(value, digits: int = 1) -> str:
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


if __name__ == "__main__":
    main()
