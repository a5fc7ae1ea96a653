"""Placebos: candidates that differ from the real ones only in what they know. Same sites, same spans, same moves.

Each answers one doubt. random: does any push of this kind do it? covariance: does any push along which activations
really vary do it? shuffled: does the method find it without labels? flip: does the other side undo it?

The real plan is the best of its candidates, so a placebo is a whole set of candidates too, one per real one, and is
searched as they are: the best of thirty random directions beats a single one far more often than one time in twenty.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadRows, SteeringError
from trimtab.steering.fitters.base import Fitter
from trimtab.steering.model.site import Site
from trimtab.steering.moves.base import Draw, Move
from trimtab.steering.moves.gated import regated
from trimtab.steering.plans.contrast import Contrast, Pair
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

Candidates = Mapping[str, SteeringPlan]


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
    fitter: Fitter,
    counts: PlaceboCounts = PlaceboCounts(),
    seed: int = 0,
) -> list[Placebo]:
    """All placebos that are searched. contrast: the rows the candidates were fitted on; fitter: what fitted them.
    Raises SteeringError when a move has no direction to draw anew, or rows are missing."""
    makers: dict[str, tuple[int, Callable[[torch.Generator], Candidates]]] = {
        "random": (counts.random, lambda stream: _each(candidates, lambda plan: random_plan(plan, stream))),
        "covariance": (
            counts.covariance,
            lambda stream: _each(candidates, lambda plan: covariance_plan(plan, contrast, stream)),
        ),
        "shuffled": (counts.shuffled, lambda stream: shuffled_candidates(candidates, contrast, fitter, stream)),
    }
    return [
        Placebo(f"{kind} {k + 1}", kind, make(_generator(seed, 1000 * number + k)))
        for number, (kind, (count, make)) in enumerate(makers.items())
        for k in range(count)
    ]


def flipped(site: str, plan: SteeringPlan) -> Placebo:
    """The other side of the chosen plan, at its own site: no search, it answers for this plan."""
    return Placebo("flip", "flip", {site: plan.scaled(-1.0)})


def random_plan(plan: SteeringPlan, generator: torch.Generator) -> SteeringPlan:
    """Every move redrawn along uniformly random directions: same class, size and rank."""

    def draw(step: Intervention) -> Draw:
        return lambda n: torch.randn(n, step.move.width or 1, generator=generator)

    return _redirected(plan, draw)


def covariance_plan(plan: SteeringPlan, contrast: Contrast, generator: torch.Generator) -> SteeringPlan:
    """The same along directions drawn from N(0, S), S the covariance of the rows within their classes.

    Within: pooled rows would carry the difference of the classes, which is what is judged. A draw is a random
    combination of centred rows, so no matrix is formed.
    """

    def draw(step: Intervention) -> Draw:
        pair = _pair(contrast, step.site)
        centred = torch.cat([side.float() - side.float().mean(0) for side in (pair.positive, pair.negative)])
        return lambda n: torch.randn(n, len(centred), generator=generator) @ centred

    return _redirected(plan, draw)


def shuffled_candidates(
    candidates: Candidates, contrast: Contrast, fitter: Fitter, generator: torch.Generator
) -> Candidates:
    """The method refitted on rows whose labels say nothing, at the same sites, spans and strengths.

    Paired rows change sides in exactly half of the pairs, so nothing of the difference is left over by chance;
    unpaired rows are dealt anew. One shuffle for all sites, as one set of labels would give. Raises BadRows when the
    method finds no direction at any site.
    """
    sites = {step.site: _pair(contrast, step.site) for plan in candidates.values() for step in plan.interventions}
    moves = _refitted(fitter, shuffled(Contrast(sites, contrast.paired), generator))
    found = {
        name: replace(plan, interventions=tuple(_with(step, moves[step.site]) for step in plan.interventions))
        for name, plan in candidates.items()
        if all(step.site in moves for step in plan.interventions)
    }
    if not found:
        raise BadRows(f"{type(fitter).__name__} finds no direction in rows with shuffled labels; ask for no refits")
    return found


def _refitted(fitter: Fitter, contrast: Contrast) -> dict[Site, Move]:
    """A move per site; none where the rows' labels, shuffled, give no direction."""
    moves: dict[Site, Move] = {}
    for site, pair in contrast.sites.items():
        try:
            moves[site] = fitter.interventions(Contrast({site: pair}, contrast.paired))[0].move
        except BadRows:
            continue
    return moves


def _with(step: Intervention, move: Move) -> Intervention:
    return replace(step, move=regated(step.move, move))


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


def _each(candidates: Candidates, change: Callable[[SteeringPlan], SteeringPlan]) -> Candidates:
    return {name: change(plan) for name, plan in candidates.items()}


def _redirected(plan: SteeringPlan, draw: Callable[[Intervention], Draw]) -> SteeringPlan:
    steps = tuple(replace(step, move=step.move.redirected(draw(step))) for step in plan.interventions)
    return replace(plan, interventions=steps)


def _pair(contrast: Contrast, site: Site) -> Pair:
    pair = contrast.sites.get(site)
    if pair is None:
        known = ", ".join(str(one) for one in contrast.sites)
        raise SteeringError(f"no rows at {site}, where the plan acts; its placebos need them. Rows at: {known}")
    return pair


def _swapped(pair: Pair, swap: Tensor) -> Pair:
    swap = swap[:, None]
    return Pair(torch.where(swap, pair.negative, pair.positive), torch.where(swap, pair.positive, pair.negative))


def _dealt(pair: Pair, order: Tensor, n: int) -> Pair:
    rows = torch.cat([pair.positive, pair.negative])[order]
    return Pair(rows[:n], rows[n:])


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + stream)
