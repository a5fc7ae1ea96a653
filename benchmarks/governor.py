"""Effect against KL with and without the governor, on held-out prompts of a published plan.

    python benchmarks/governor.py HOME french@latest [--prompts 16] [--tokens 24] [--threads 2]

Each point: one strength, ungoverned or governed to a budget per token; the behavioural score of the sampled answers
(change from the base model's, paired interval), the mean and the largest KL that a token spent, and the share of
tokens at which the governor acted.
"""

import argparse

import numpy as np
import torch
from ratio import setting

from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.writing import Decoding, generate
from trimtab.steering.statistics import paired_difference, ratio_interval
from trimtab.tasks.data.prompts import texts_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.validate import behaviour_of
from trimtab.tasks.recipes.kinds import make_recipe

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5)
BUDGETS = (0.05, 0.2, 0.5, 1.0)
UNBOUND = 1e9  # nats: the governor only keeps the ledger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home")
    parser.add_argument("plan")
    for name, default in (("prompts", 16), ("tokens", 24), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    artifact = Home.at(args.home).catalog.get(args.plan)
    recipe, plan = make_recipe(artifact.recipe), SteeringPlan.unpack(artifact)
    model, tokenizer = model_of(recipe.model)
    score = behaviour_of(recipe)
    texts = [tokens for one, tokens in texts_of(recipe.data, tokenizer) if one.split == "report" and one.label == 1]
    prompts = [text.prompt for text in texts[: args.prompts]]
    decoding = Decoding(args.tokens, seed=1000)

    def scores(written) -> np.ndarray:
        return np.array([score(tokenizer.decode(ids, skip_special_tokens=True), len(ids)) for ids in written])

    base = scores(generate(model, prompts, None, decoding))
    print(setting(args.threads), end="\n\n")
    print(f"**{artifact.ref}**, {len(prompts)} held-out prompts x {args.tokens} sampled tokens ({score.metric})\n")
    print(
        "| strength | governed to | effect | KL per token | largest at a token | acted at |\n|---|---|---|---|---|---|"
    )
    settings = [(f, UNBOUND) for f in FACTORS] + [(f, b) for b in BUDGETS for f in (1.0, 1.5, 4.0)]
    for factor, budget in settings:
        written, spent, acted = governed(model, plan.scaled(factor), prompts, decoding, budget)
        effect = paired_difference(scores(written), base)
        kl = ratio_interval(np.array([s.sum() for s in spent]), np.array([len(s) for s in spent]))
        bound = "-" if budget == UNBOUND else f"{budget:g}"
        print(
            f"| {factor:g} | {bound} | {effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}] "
            f"| {kl.mean:.3f} [{kl.low:.3f}, {kl.high:.3f}] | {max(s.max() for s in spent):.4f} | {acted:.0%} |"
        )


def governed(model, plan: SteeringPlan, prompts, decoding: Decoding, budget: float):
    """Answers, nats per token of each, and the share of tokens at which the governor acted."""
    with plan.on(model, prompt_lengths=[len(prompt) for prompt in prompts], govern=budget) as session:
        written = generate(model, prompts, None, decoding, batch=len(prompts))
    rows = torch.stack(session.ledger.spent, dim=1).numpy()
    held = torch.stack(session.ledger.share, dim=1).numpy()
    counts = [max(len(ids), 1) for ids in written]
    acted = np.concatenate([row[:n] < 1 for row, n in zip(held, counts, strict=True)])
    return written, [row[:n] for row, n in zip(rows, counts, strict=True)], float(acted.mean())


if __name__ == "__main__":
    main()
