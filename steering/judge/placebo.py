"""Placebos: plans that differ from the real one only in what they know. Same sites, same spans, dosed alike.

Each answers one doubt. random: does any push of this size do it? covariance: does any push along which activations
really vary do it? shuffled: does the method find it without labels? flip: does the other side undo it?
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.contrast import Contrast, Pair
from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters.base import Fitter
from trimtab.steering.intervention import Intervention
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.base import Move
from trimtab.steering.moves.gated import regated, ungated
from trimtab.steering.plan import SteeringPlan


@dataclass(frozen=True, eq=False)
class Placebo:
    """name: for reports. kind: random, covariance, shuffled or flip. plan: at strength 1 as large as the real one."""

    name: str
    kind: str
    plan: SteeringPlan


@dataclass(frozen=True)
class PlaceboCounts:
    """How many of each. 19 random ones are the fewest that can reach a rank p-value of 0.05."""

    random: int = 19
    covariance: int = 5
    shuffled: int = 3
    flip: int = 1


def placebos(
    plan: SteeringPlan, contrast: Contrast, fitter: Fitter, counts: PlaceboCounts = PlaceboCounts(), seed: int = 0
) -> list[Placebo]:
    """All placebos of a plan. contrast: the rows it was fitted on; fitter: what fitted it."""
    makers: dict[str, tuple[int, Callable[[torch.Generator], SteeringPlan]]] = {
        "random": (counts.random, lambda stream: random_plan(plan, contrast, stream)),
        "covariance": (counts.covariance, lambda stream: covariance_plan(plan, contrast, stream)),
        "shuffled": (counts.shuffled, lambda stream: shuffled_plan(plan, contrast, fitter, stream)),
    }
    made = [
        Placebo(f"{kind} {k + 1}", kind, make(_generator(seed, 1000 * number + k)))
        for number, (kind, (count, make)) in enumerate(makers.items())
        for k in range(count)
    ]
    return made + [Placebo("flip", "flip", plan.scaled(-1.0))] * min(counts.flip, 1)


def random_plan(plan: SteeringPlan, contrast: Contrast, generator: torch.Generator) -> SteeringPlan:
    """Every move replaced by an Add in a uniformly random direction, as long as the mean displacement of the move."""

    def draw(step: Intervention) -> Tensor:
        size = displacement(step.move, _rows(contrast, step))
        return torch.randn(size.shape[-1], generator=generator)

    return _replaced(plan, contrast, draw)


def covariance_plan(plan: SteeringPlan, contrast: Contrast, generator: torch.Generator) -> SteeringPlan:
    """The same with directions drawn from N(0, S), S the covariance of the rows within their classes.

    Within: pooled rows would carry the difference of the classes, which is what is judged. A draw is a random
    combination of centred rows, so no matrix is formed.
    """

    def draw(step: Intervention) -> Tensor:
        pair = _pair(contrast, step)
        centred = torch.cat([side.float() - side.float().mean(0) for side in (pair.positive, pair.negative)])
        return torch.randn(len(centred), generator=generator) @ centred

    return _replaced(plan, contrast, draw)


def shuffled_plan(plan: SteeringPlan, contrast: Contrast, fitter: Fitter, generator: torch.Generator) -> SteeringPlan:
    """The method refitted on rows whose labels say nothing, at the same sites, spans and strengths.

    Paired rows change sides in exactly half of the pairs, so nothing of the difference is left over by chance;
    unpaired rows are dealt anew. One shuffle for all sites, as one set of labels would give.
    """
    kept = {step.site: _pair(contrast, step) for step in plan.interventions}
    refitted = fitter.fit(shuffled(Contrast(kept, contrast.paired), generator))
    moves = {step.site: step.move for step in refitted.interventions}
    steps = tuple(replace(step, move=regated(step.move, moves[step.site])) for step in plan.interventions)
    return replace(plan, interventions=steps)


def shuffled(contrast: Contrast, generator: torch.Generator) -> Contrast:
    """The contrast with its labels shuffled: within pairs when paired, over all rows otherwise."""
    first = next(iter(contrast.sites.values()))
    n, m = len(first.positive), len(first.negative)
    if contrast.paired:
        swap = torch.zeros(n, dtype=torch.bool)
        swap[torch.randperm(n, generator=generator)[: n // 2]] = True
        deal: Callable[[Pair], Pair] = lambda pair: _swapped(pair, swap)  # noqa: E731
    else:
        order = torch.randperm(n + m, generator=generator)
        deal = lambda pair: _dealt(pair, order, n)  # noqa: E731
    return Contrast({site: deal(pair) for site, pair in contrast.sites.items()}, contrast.paired)


def displacement(move: Move, rows: Float[Tensor, "n d"]) -> Float[Tensor, "d"]:
    """Mean displacement of the rows at strength 1: the vector itself for an Add."""
    linear = move.affine()
    return linear.bias.float() if linear is not None and linear.constant else move.delta(rows.float()).mean(0)


def _replaced(plan: SteeringPlan, contrast: Contrast, draw: Callable[[Intervention], Tensor]) -> SteeringPlan:
    def steps() -> Iterator[Intervention]:
        for step in plan.interventions:
            direction = draw(step)
            size = displacement(ungated(step.move), _rows(contrast, step)).norm()
            yield replace(step, move=regated(step.move, Add(direction * (size / direction.norm()))))

    return replace(plan, interventions=tuple(steps()))


def _pair(contrast: Contrast, step: Intervention) -> Pair:
    pair = contrast.sites.get(step.site)
    if pair is None:
        known = ", ".join(str(site) for site in contrast.sites)
        raise SteeringError(f"no rows at {step.site}, where the plan acts; its placebos need them. Rows at: {known}")
    return pair


def _rows(contrast: Contrast, step: Intervention) -> Tensor:
    pair = _pair(contrast, step)
    return torch.cat([pair.positive, pair.negative])


def _swapped(pair: Pair, swap: Tensor) -> Pair:
    swap = swap[:, None]
    return Pair(torch.where(swap, pair.negative, pair.positive), torch.where(swap, pair.positive, pair.negative))


def _dealt(pair: Pair, order: Tensor, n: int) -> Pair:
    rows = torch.cat([pair.positive, pair.negative])[order]
    return Pair(rows[:n], rows[n:])


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + stream)
