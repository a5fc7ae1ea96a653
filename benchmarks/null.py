"""The null: how often does a plan that knows nothing look as if it knew something?

    python benchmarks/null.py [--blocks 12 30] [--trials 200] [--first 0] [--real] [--out null.json]

Candidates are one random direction per block. They go through the real `judge` with 19 random placebos: search, dose,
held-out margins, rank. The rank p-value must be uniform: p <= 0.05 in 5% of trials. Without --real: tiny random llamas
of so many blocks; with it: SmolLM2 and the prompts of `cheerful`, small settings.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binom, kstest
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from trimtab.steering import load_model
from trimtab.steering.fitters.mean_difference import MeanDifference
from trimtab.steering.judge.candidates import RowRefit, by_site
from trimtab.steering.judge.judge import judge
from trimtab.steering.judge.judge_input import JudgeInput, Texts
from trimtab.steering.judge.placebo import PlaceboCounts
from trimtab.steering.judge.settings import AblationChoice, DoseSettings, JudgeSettings, PriceSettings, SearchSettings
from trimtab.steering.judge.wording import rank_p
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Tokens, tokenize
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.contrast import Contrast
from trimtab.steering.running.writing import Decoding

ROWS = Path(__file__).parents[1] / "recipes" / "cheerful.jsonl"
SETTINGS = JudgeSettings(
    search=SearchSettings(pairs=6, screen_pairs=24),
    dose=DoseSettings(prompts=4, decoding=Decoding(max_new_tokens=6), cap=8),
    price=PriceSettings(prompts=2, decoding=Decoding(max_new_tokens=4), neutral=2),
    ablation=AblationChoice(pairs=0),
    placebos=PlaceboCounts(19, 0, 0, 0),
    report_pairs=24,
    placebo_pairs=24,
    completion_tokens=10,
    curve=(),
    generations=1,
    generation_tokens=2,
    together=19,
)


def tiny(blocks: int) -> PreTrainedModel:
    """A random llama with matrices of unit gain."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=40, intermediate_size=56, num_hidden_layers=blocks, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model


def tiny_texts() -> Texts:
    """Wanted completions of one half of the vocabulary, unwanted ones of the other."""
    rng = np.random.default_rng(1)

    def text(prompt: list[int], low: int, high: int) -> Tokens:
        ids = np.array([*prompt, *rng.integers(low, high, 4)])
        return Tokens(ids, len(prompt), np.zeros(len(ids), np.uint8), np.zeros(len(ids), bool))

    def pair() -> AnswerPair:
        prompt = rng.integers(2, 60, 6).tolist()
        return AnswerPair(text(prompt, 2, 30), text(prompt, 30, 60))

    select, report = ([pair() for _ in range(24)] for _ in range(2))
    return Texts(select, report, [text(rng.integers(2, 60, 6).tolist(), 2, 60) for _ in range(2)])


def real_texts(tokenizer) -> Texts:
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]

    def pair(row: dict) -> AnswerPair:
        return AnswerPair(*(tokenize(tokenizer, row["prompt"], row[side]) for side in ("positive", "negative")))

    neutral = [tokenize(tokenizer, row["prompt"]) for row in rows[60:62]]
    return Texts([pair(row) for row in rows[:24]], [pair(row) for row in rows[100:124]], neutral)


def judge_input(model: PreTrainedModel, texts: Texts, budget: float, seed: int) -> JudgeInput:
    """Candidates that know nothing: one random direction at every block."""
    stream, anatomy = torch.Generator().manual_seed(10_000 + seed), Anatomy.of(model)
    steps = [
        Intervention(site, Add(torch.randn(anatomy.d_model, generator=stream)), Span("answer"))
        for site in (Site("resid_post", block) for block in range(anatomy.n_layers))
    ]
    candidates = by_site(SteeringPlan(tuple(steps)))
    return JudgeInput(
        name="knows nothing",
        model=model,
        candidates=candidates,
        refit=RowRefit(MeanDifference(), Contrast({}), candidates),
        fitter_name="a random direction",
        contrast=Contrast({}),
        texts=texts,
        budget=budget,
        decode=lambda ids: "",
        settings=replace(SETTINGS, seed=seed),
    )


def verdicts(model: PreTrainedModel, texts: Texts, budget: float, seeds: range) -> Iterator[tuple[float, bool]]:
    """Per trial, the rank p-value and whether every placebo was beaten with an interval."""
    for seed in seeds:
        verdict = judge(judge_input(model, texts, budget, seed))
        p = rank_p(verdict.contenders)
        if p is not None:
            yield p, verdict.beats_random


def summary(found: list[tuple[float, bool]], seconds: float) -> dict[str, float]:
    """Shares of small p-values beside what chance allows, and a Kolmogorov-Smirnov test against the uniform
    distribution (ranks are spread evenly over their steps of 0.05)."""
    p, n = np.array([value for value, _ in found]), len(found)
    low, high = binom.ppf([0.025, 0.975], n, 0.05) / n
    spread = p - np.random.default_rng(0).uniform(0, 0.05, n)
    return {
        "trials": n, "p <= 0.05": float((p <= 0.0501).mean()), "95% of uniform: from": low, "to": high,
        "p <= 0.25": float((p <= 0.2501).mean()), "median p": float(np.median(p)),
        "KS p": float(kstest(spread, "uniform").pvalue), "beats_random": sum(beats for _, beats in found),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[12, 30])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first trial")
    parser.add_argument("--real", action="store_true", help="SmolLM2 in place of random llamas")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    subjects = [(f"tiny, {blocks} blocks", lambda b=blocks: (tiny(b), tiny_texts(), 0.1)) for blocks in options.blocks]
    if options.real:
        model, tokenizer = load_model("smollm2")
        subjects = [("SmolLM2, cheerful", lambda: (model, real_texts(tokenizer), 0.3))]
    results = {}
    for name, make in subjects:
        found, started = [], time.monotonic()
        for one in verdicts(*make(), range(options.first, options.first + options.trials)):
            found.append(one)
            results[name] = {**summary(found, time.monotonic() - started), "p": [p for p, _ in found]}
            shown = {key: value for key, value in results[name].items() if key != "p"}
            print(name, json.dumps(shown), flush=True)
            if options.out:
                options.out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
