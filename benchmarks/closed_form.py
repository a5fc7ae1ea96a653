"""How near the Fisher closed form comes to the strength that costs what was asked, before any verification.

    python benchmarks/closed_form.py HOME cheerful brief french [--texts 6] [--tokens 24] [--threads 2]

For every block of each recipe's candidates (`NAME.mean_difference` in the catalog of HOME) and each budget: achieved KL
over asked at the closed form's strength, KL(steered || base) on the recipe's own answers, teacher-forced. Then the
passes that `dose` takes from there to 10%, against bisection from strength 1.
"""

import argparse
import math
from statistics import median

import numpy as np
import torch
from ratio import setting

from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import FORCED, Calibration
from trimtab.steering.price.closed_form import fisher_strength, fisher_variances
from trimtab.steering.price.strength import find_strength
from trimtab.steering.running.scorer import Scorer
from trimtab.tasks.data.prompts import texts_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.kinds import make_recipe

BUDGETS = (1e-3, 1e-2, 0.1, 0.5)
TOLERANCE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home")
    parser.add_argument("names", nargs="+")
    for name, default in (("texts", 6), ("tokens", 24), ("threads", 2), ("every", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(setting(args.threads), end="\n\n")
    for name in args.names:
        behaviour(args, name)


def behaviour(args: argparse.Namespace, name: str) -> None:
    """One table: a row per block."""
    artifact = Home.at(args.home).catalog.get(f"{name}.mean_difference")
    recipe, plan = make_recipe(artifact.recipe), SteeringPlan.unpack(artifact)
    model, tokenizer = model_of(recipe.model)
    texts = [tokens for one, tokens in texts_of(recipe.data, tokenizer) if one.split == "select" and one.label == 1]
    texts = [cut(text, args.tokens) for text in texts[: args.texts]]
    calibration = Calibration(Scorer(model), texts, on=FORCED)
    rows = [block(calibration, plan, step) for step in plan.interventions[:: args.every]]
    print(f"**{name}**: achieved KL over asked at the closed form's strength\n")
    print("| site | " + " | ".join(f"{b:g} nats" for b in BUDGETS) + " | passes: dose | passes: bisection |")
    print("|---|" + "---|" * (len(BUDGETS) + 2))
    for step, (ratios, ours, plain) in zip(plan.interventions[:: args.every], rows, strict=True):
        print(f"| {step.site} | " + " | ".join(f"{r:.2f}" for r in ratios) + f" | {ours} | {plain} |")
    table = np.array([ratios for ratios, _, _ in rows])
    print("| median | " + " | ".join(f"{x:.2f}" for x in np.median(table, 0)), end=" | ")
    print(f"{median(o for _, o, _ in rows):g} | {median(p for _, _, p in rows):g} |\n")


def block(calibration: Calibration, plan: SteeringPlan, step: Intervention) -> tuple[list[float], int, int]:
    """Ratios at the budgets; passes to 10% of 0.1 nats by the closed form and secants, and by bisection alone."""
    alone = SteeringPlan((step,), plan.model)
    variances, slopes = fisher_variances(calibration.scorer, alone, calibration.prompts)
    measured: dict[float, float] = {}

    def kl(strength: float) -> float:
        if strength not in measured:
            measured[strength] = calibration.kl(alone.scaled(strength))
        return measured[strength]

    ratios = [kl(fisher_strength(variances, budget)) / budget for budget in BUDGETS]
    found = find_strength(kl, 0.1, fisher_strength(variances, 0.1), TOLERANCE)
    return ratios, slopes + 2 * len(found.history), 2 * bisected(kl, 0.1)


def bisected(kl, target: float) -> int:
    """Verifications of plain bisection: double or halve from 1 until bracketed, then halve the bracket."""
    low, high, tried = 0.0, math.inf, 0
    strength = 1.0
    while tried < 40:
        tried += 1
        value = kl(strength)
        if abs(value / target - 1) <= TOLERANCE:
            break
        low, high = (strength, high) if value < target else (low, strength)
        strength = 2 * strength if math.isinf(high) else (low + high) / 2
    return tried


def cut(text, tokens: int):
    end = text.prompt_length + tokens
    return type(text)(text.ids[:end], text.prompt_length, text.roles[:end], text.special[:end])


if __name__ == "__main__":
    main()
