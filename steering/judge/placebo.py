"""Placebos: candidates that differ from the real ones only in what they know. Same sites, same spans, same moves.

Each answers one doubt. random: does any push of this kind do it? covariance: does any push along which activations
really vary do it? shuffled: does the method find it without labels? flip: does the other side undo it?

The real plan is the best of its candidates, so a placebo is a whole set of candidates too, one per real one, and is
searched as they are: the best of thirty random directions beats a single one far more often than one time in twenty.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.judge.candidates import Candidates, Refit, rows_at
from trimtab.steering.moves.base import DrawDirections
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.contrast import Contrast


@dataclass(frozen=True, eq=False)
class Placebo:
    """name: for reports. kind: random, covariance, shuffled or flip. candidates: as many and named as the real ones
    (a refit may have fewer: where shuffled labels gave no direction; the flip has the chosen one alone)."""

    name: str
    kind: str
    candidates: Candidates


@dataclass(frozen=True)
class PlaceboCounts:
    """How many of each. 19 random ones are the fewest that can reach a rank p-value of 0.05."""

    random: int = 19
    covariance: int = 5
    shuffled: int = 3
    flip: int = 1


def placebos(
    candidates: Candidates,
    contrast: Contrast,
    refit: Refit,
    counts: PlaceboCounts = PlaceboCounts(),
    seed: int = 0,
) -> list[Placebo]:
    """All placebos that are searched. contrast: rows at the candidates' sites. refit: makes the candidates anew on
    shuffled labels. Raises SteeringError when a move has no direction to draw anew, or rows are missing."""
    makers: dict[str, tuple[int, Callable[[torch.Generator], Candidates]]] = {
        "random": (counts.random, lambda stream: _each(candidates, lambda plan: random_plan(plan, stream))),
        "covariance": (
            counts.covariance,
            lambda stream: _each(candidates, lambda plan: covariance_plan(plan, contrast, stream)),
        ),
        "shuffled": (counts.shuffled, refit),
    }
    return [
        Placebo(f"{kind} {k + 1}", kind, make(_generator(seed, 1000 * number + k)))
        for number, (kind, (count, make)) in enumerate(makers.items())
        for k in range(count)
    ]


def flipped(name: str, plan: SteeringPlan) -> Placebo:
    """The other side of one candidate, under its name: no search, it stands for this plan alone."""
    return Placebo("flip", "flip", {name: plan.scaled(-1.0)})


def random_plan(plan: SteeringPlan, generator: torch.Generator) -> SteeringPlan:
    """Every move redrawn along uniformly random directions: same class, size and rank."""

    def draw(step: Intervention) -> DrawDirections:
        return lambda n: torch.randn(n, step.move.width or 1, generator=generator)

    return _redirected(plan, draw)


def covariance_plan(plan: SteeringPlan, contrast: Contrast, generator: torch.Generator) -> SteeringPlan:
    """The same along directions drawn from N(0, S), S the covariance of the rows within their classes.

    Within: pooled rows would carry the difference of the classes, which is what is judged. A draw is a random
    combination of centred rows, so no matrix is formed.
    """

    def draw(step: Intervention) -> DrawDirections:
        pair = rows_at(contrast, step)
        centred = torch.cat([side.float() - side.float().mean(0) for side in (pair.positive, pair.negative)])
        return lambda n: torch.randn(n, len(centred), generator=generator) @ centred

    return _redirected(plan, draw)


def displacement(step: Intervention, contrast: Contrast) -> Float[Tensor, "d"]:
    """What an intervention adds at strength 1: the vector itself for an Add, else the mean displacement of the rows at
    its site. Raises SteeringError when rows are needed and missing."""
    linear = step.move.affine()
    if linear is not None and linear.constant:
        return linear.bias.float()
    pair = rows_at(contrast, step)
    return step.move.delta(torch.cat([pair.positive, pair.negative]).float()).mean(0)


def _each(candidates: Candidates, change: Callable[[SteeringPlan], SteeringPlan]) -> Candidates:
    return {name: change(plan) for name, plan in candidates.items()}


def _redirected(plan: SteeringPlan, draw: Callable[[Intervention], DrawDirections]) -> SteeringPlan:
    steps = tuple(replace(step, move=step.move.redirected(draw(step))) for step in plan.interventions)
    return replace(plan, interventions=steps)


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + stream)
