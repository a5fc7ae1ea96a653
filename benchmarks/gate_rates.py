"""Whether a gate's false-positive rate holds after the choice of its site: asked against got.

    python benchmarks/gate_rates.py [--trials 100] [--splits 20]

Two ways of choosing the site: by cross-validation on the fit prompts, as `fit_gate` does, and by AUROC on the
validation prompts that then set the threshold, as it did before. First on synthetic rows, then on the rows that the
embedded model holds of the prompts of recipes/french-on-food.yaml and recipes/cheerful-when-gloomy.yaml, dealt anew
into fit, validation and report many times (neighbouring lines stay together). Takes about five minutes.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.conditions.fit_gate import (
    GateSettings,
    held_out_auroc,
    opened_for,
    oriented_gate,
    rates_of,
)
from trimtab.steering.conditions.prompts import readings
from trimtab.steering.gates.base import Scored
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import tokenize
from trimtab.steering.statistics import auroc
from trimtab.tasks.data.marked_prompts import TWINS
from trimtab.tasks.data.prompts import form_of
from trimtab.tasks.data.rows import read_jsonl
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.kinds import load_recipe, read_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
REAL = (("french-on-food.yaml", "french.yaml"), ("cheerful-when-gloomy.yaml", "cheerful.yaml"))
WAYS = ("fit prompts", "validation prompts")
WIDTH, SITES, FIT, REPORT = 16, 30, 40, 2000


@dataclass(frozen=True, eq=False)
class Rows:
    """rows: `[n d]` of every prompt, by site. wanted: `[n]`. parts: prompts of fit, validation and report."""

    rows: Mapping[Site, Tensor]
    wanted: np.ndarray
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]


def synthetic(generator: np.random.Generator, unwanted: int) -> Rows:
    """Wanted prompts are shifted by one standard deviation in a direction of each site's own."""
    sizes = (FIT, 2 * unwanted, REPORT)
    wanted = np.arange(sum(sizes)) % 2 == 0
    rows = {}
    for block in range(SITES):
        shift = generator.normal(size=WIDTH)
        values = generator.normal(size=(len(wanted), WIDTH)) + np.outer(wanted, shift / np.linalg.norm(shift))
        rows[Site("resid_post", block)] = torch.from_numpy(values).float()
    fit, validation, report = np.split(np.arange(len(wanted)), np.cumsum(sizes)[:2])
    return Rows(rows, wanted, (fit, validation, report))


def dealt(generator: np.random.Generator, rows: Mapping[Site, Tensor], wanted: np.ndarray) -> Rows:
    """Runs of TWINS prompts to fit, validation and report, 40, 30 and 30 of 100."""
    order = generator.permutation(-(-len(wanted) // TWINS))
    place = np.empty(len(order))
    place[order] = (np.arange(len(order)) + 0.5) / len(order)
    share = place[np.arange(len(wanted)) // TWINS]
    parts = (share < 0.4, (share >= 0.4) & (share < 0.7), share >= 0.7)
    return Rows(rows, wanted, tuple(np.flatnonzero(part) for part in parts))  # type: ignore[arg-type]


def opened(data: Rows, settings: GateSettings) -> list[tuple[float, float]]:
    """(false, true) positive rate on the report prompts, for each of WAYS to choose the site."""
    (fit, validation, report), wanted = data.parts, data.wanted
    gates = {site: oriented_gate(site, rows[fit], wanted[fit], settings) for site, rows in data.rows.items()}
    crossed = {site: held_out_auroc(site, rows[fit], wanted[fit], settings) for site, rows in data.rows.items()}
    seen = {site: auroc(_scores(gates[site], rows[validation]), wanted[validation]) for site, rows in data.rows.items()}
    found = []
    for scores in (crossed, seen):
        best = max(scores, key=lambda site: scores[site])
        alone = data.rows[best][validation][torch.from_numpy(~wanted[validation])]
        gate = opened_for(gates[best], alone, settings.false_positive_rate)
        threshold = -gate.threshold if gate.below else gate.threshold
        rates = rates_of(_scores(gate, data.rows[best][report]), wanted[report], threshold)
        found.append((rates.false_positive.mean, rates.true_positive.mean))
    return found


def _scores(gate: Scored, rows: Tensor) -> np.ndarray:
    scores = gate.score(rows).double().numpy()
    return -scores if gate.below else scores


def table(name: str, draws: Iterable[Rows], settings: GateSettings) -> None:
    """One line per way of choosing the site."""
    found = np.array([opened(data, settings) for data in draws])
    for way, rates in zip(WAYS, found.transpose(1, 0, 2), strict=True):
        error = rates[:, 0].std() / len(rates) ** 0.5
        print(
            f"| {name} | {settings.false_positive_rate:g} | {way} | {rates[:, 0].mean():.3f} ({error:.3f}) | "
            f"{rates[:, 1].mean():.2f} |",
            flush=True,
        )


def real() -> Iterator[tuple[str, Mapping[Site, Tensor], np.ndarray]]:
    """(recipe, rows by site, wanted) of the embedded model."""
    for name, base in REAL:
        recipe, plain = read_recipe(RECIPES / name), load_recipe(RECIPES / base)
        model, tokenizer = model_of(plain.model)
        lines = [row for _, row in read_jsonl(Path(recipe.data.prompts.path))]
        prompts = [tokenize(tokenizer, row["prompt"], form=form_of(plain.data)) for row in lines]
        anatomy = Anatomy.of(model)
        rows = readings(anatomy, prompts, list(anatomy.sites([recipe.condition.point])), recipe.condition.pool)
        yield recipe.name, rows, np.array([row["wanted"] for row in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    print(
        "| rows | asked | site chosen on | false positives (standard error) | true positives |\n|---|---|---|---|---|"
    )
    for unwanted in (20, 40, 100):
        generator = np.random.default_rng(unwanted)
        draws = (synthetic(generator, unwanted) for _ in range(given.trials))
        table(f"synthetic, {SITES} sites, {unwanted} unwanted", draws, GateSettings("cosine", 0.05))
    for name, rows, wanted in real():
        generator = np.random.default_rng(0)
        splits = (dealt(generator, rows, wanted) for _ in range(given.splits))
        table(f"{name}, {len(rows)} sites", splits, GateSettings("linear", 0.1))


if __name__ == "__main__":
    main()
