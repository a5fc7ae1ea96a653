"""What scoring one candidate costs when its pass begins at its own block, as a share of a whole pass.

    python benchmarks/resume.py [--rounds 5] [--pairs 4] [--blocks 0 7 14 21 29]

The pairs of `recipes/cheerful.yaml` on SmolLM2-135M, one plan a block. In every round each block's resumed and whole
pass run one after the other; the table has the median over rounds of their ratio, in CPU seconds.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from trimtab.steering import SteeringPlan
from trimtab.steering.judge.effect import margins
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.resume import Streams
from trimtab.steering.running.scorer import Scorer
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.validate import judged_texts
from trimtab.tasks.recipes.kinds import RecipeFile

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "cheerful.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--blocks", type=int, nargs="*", default=[0, 7, 14, 21, 29])
    args = parser.parse_args()
    recipe = RecipeFile.read(RECIPE).recipe
    model, tokenizer = model_of(recipe.model)
    pairs = [pair.shortened(24) for pair in judged_texts(recipe, tokenizer).report[: args.pairs]]
    anatomy = Anatomy.of(model)
    print(f"{args.pairs} pairs, {args.rounds} rounds, {torch.get_num_threads()} threads\n")
    print("| first edit | resumed / whole | whole, CPU s | weights that are multiplied with |\n|---|---|---|---|")
    for block in args.blocks:
        resumed, whole = times(model, plan_at(anatomy, block), pairs, args.rounds)
        ratio = median(one / other for one, other in zip(resumed, whole, strict=True))
        print(f"| resid_post.{block} | {ratio:.2f} | {median(whole):.2f} | {share(anatomy, block):.2f} |")


def times(
    model: torch.nn.Module, plan: SteeringPlan, pairs: list[AnswerPair], rounds: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of margins under the plan, resumed and whole, round by round."""
    scorers = Scorer(model), Scorer(model, streams=Streams(keep=0))
    for scorer in scorers:  # prompts, and the stream
        margins(scorer, pairs, plan)
    each = [[seconds(partial(margins, scorer, pairs, plan)) for scorer in scorers] for _ in range(rounds)]
    return [one for one, _ in each], [other for _, other in each]


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def plan_at(anatomy: Anatomy, block: int) -> SteeringPlan:
    """A small step in a random direction."""
    vector = torch.randn(anatomy.d_model, generator=torch.Generator().manual_seed(block))
    return SteeringPlan((Intervention(f"resid_post.{block}", Add(0.1 * vector), "answer"),))


def share(anatomy: Anatomy, block: int) -> float:
    """Weights that a resumed pass multiplies with, among all: those of later blocks and of the head."""
    sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in anatomy.blocks]
    head = anatomy.unembedding.numel()
    return (sum(sizes[block + 1 :]) + head) / (sum(sizes) + head)


if __name__ == "__main__":
    main()
