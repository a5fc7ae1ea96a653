"""What each method that learns through the model costs to fit, over one forward and backward pass of its pairs.

    python benchmarks/learning.py [--pairs 16] [--blocks 10 15 20] [--methods gradient natural ...]

Pairs of `recipes/cheerful.yaml` on SmolLM2-135M; a quarter as many again is held out. CPU seconds of each fit with its
default settings, divided by those of a pass that computes the gradient of every completion's log-probability at the
same sites, measured before and after it in the same run. Trained methods do not grow with the pairs (their steps draw
batches), so their ratio falls with more of them.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import mean

import torch

from trimtab.steering.fitters import FITTERS, ModelFitter
from trimtab.steering.learning.examples import Examples, texts_of
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.price.pulls import Labels
from trimtab.steering.price.response import LinearResponse, Responses
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.learning import examples_of
from trimtab.tasks.recipes.kinds import load_recipe


def main() -> None:
    learning = [name for name in FITTERS if issubclass(FITTERS[name], ModelFitter)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="recipes/cheerful.yaml")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--blocks", type=int, nargs="*", default=[10, 15, 20])
    parser.add_argument("--methods", nargs="*", default=learning, choices=learning)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    anatomy = Anatomy.of(model_of(recipe.model)[0])
    whole = examples_of(recipe)
    examples = replace(whole, pairs=whole.pairs[: args.pairs], held_out=whole.held_out[: max(2, args.pairs // 4)])
    sites = [Site("resid_post", block) for block in args.blocks]
    print(f"{args.pairs} pairs, {len(sites)} sites, {torch.get_num_threads()} threads\n")
    print("| method | fit, CPU s | over forward and backward of the pairs |\n|---|---|---|")
    before = one_pass(anatomy, examples, sites)
    for name in args.methods:
        fresh = replace(examples, responses=Responses())  # nothing that another method computed
        fit = seconds(lambda name=name, fresh=fresh: FITTERS[name]().fit(anatomy, fresh, sites))
        after = one_pass(anatomy, examples, sites)
        print(f"| {name} | {fit:.1f} | {fit / mean((before, after)):.1f} |", flush=True)
        before = after


def one_pass(anatomy: Anatomy, examples: Examples, sites: list[Site]) -> float:
    """CPU seconds of one forward and one backward pass over the pairs' texts."""
    places = [(site, examples.span) for site in sites]
    return seconds(lambda: LinearResponse.of(anatomy.model, texts_of(examples.pairs), places, Labels(0)))


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
