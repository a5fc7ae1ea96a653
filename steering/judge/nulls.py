"""Nulls: random and covariance-matched placebos that were measured for another plan of the same shape.

Such a placebo knows nothing of a plan but where and how it acts: its own length is found by its dose. So methods whose
candidates are single vectors at the same sites share these placebos, and only the first of them pays: searching,
dosing and measuring two dozen placebos is most of a judgement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch

from trimtab.steering.judge.candidates import Candidates
from trimtab.steering.judge.judged import Judged
from trimtab.steering.judge.placebo import PlaceboCounts
from trimtab.steering.judge.verdict import NULLS
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.plan import SteeringPlan

Shape = tuple[tuple[str, str], ...]  # site and span of each candidate, by site


class NullShelf(Protocol):
    """Measured placebos of one model, budget, data and way of judging, by the shape of the candidates. Their strengths
    are the lengths of the vectors that they add."""

    def get(self, shape: Shape) -> Sequence[Judged] | None:
        """What was put there; None when nothing was."""

    def put(self, shape: Shape, nulls: Sequence[Judged]) -> None:
        """Keep them for other methods."""


class NoShelf:
    """Every judgement measures its own."""

    def get(self, shape: Shape) -> None:
        """Nothing is kept."""

    def put(self, shape: Shape, nulls: Sequence[Judged]) -> None:
        """Nothing is kept."""


def shape_of(candidates: Candidates) -> Shape | None:
    """The shape of candidates that are one vector each, every one at a site of its own. None for others: what a
    placebo keeps of them (a clamp's bounds, a rotation's angle, relative lengths at several sites) is more than this
    tells."""
    steps = [step for plan in candidates.values() for step in plan.interventions]
    alone = all(len(plan.interventions) == 1 for plan in candidates.values())
    if not alone or len({step.site for step in steps}) < len(steps) or any(type(s.move) is not Add for s in steps):
        return None
    return tuple((str(step.site), str(step.span)) for step in sorted(steps, key=lambda step: step.site))


@dataclass(frozen=True, eq=False)
class SharedNulls:
    """The random and covariance-matched placebos of these candidates, as far as another judgement has measured them."""

    candidates: Candidates
    shelf: NullShelf

    @cached_property
    def shape(self) -> Shape | None:
        return shape_of(self.candidates)

    @cached_property
    def measured(self) -> Sequence[Judged]:
        """Those of the shelf; empty when it has none."""
        return (None if self.shape is None else self.shelf.get(self.shape)) or ()

    @property
    def subjects(self) -> Candidates:
        """What placebos are drawn after: the candidates by site and at unit length where placebos are shared, so that
        they are the same, to the bit, whichever method they are drawn for."""
        if self.shape is None:
            return self.candidates
        plans = sorted(self.candidates.values(), key=lambda plan: plan.sites[0])
        return {str(plan.sites[0]): _at_unit_length(plan) for plan in plans}

    def left(self, counts: PlaceboCounts) -> PlaceboCounts:
        """The placebos that are still to be measured."""
        return replace(counts, random=0, covariance=0) if self.measured else counts

    def completed(self, judged: Sequence[Judged]) -> list[Judged]:
        """All placebos, with those that were measured now, whose nulls are kept for methods of the same shape. Their
        strengths are in units of the candidates' vectors."""
        nulls = [*self.measured, *(one for one in judged if one.contender.kind in NULLS)]
        others = [one for one in judged if one.contender.kind not in NULLS]
        if self.shape is None:
            return [*nulls, *others]
        if not self.measured and nulls:
            self.shelf.put(self.shape, nulls)
        return [*map(self._in_own_units, nulls), *others]

    def _in_own_units(self, one: Judged) -> Judged:
        contender = one.contender
        length = next(_length(plan) for plan in self.candidates.values() if str(plan.sites[0]) == contender.site)
        strength = None if contender.strength is None or length == 0 else contender.strength / length
        return replace(one, contender=replace(contender, strength=strength))


def _length(plan: SteeringPlan) -> float:
    """Of what the one vector adds at strength 1."""
    (step,) = plan.interventions
    assert isinstance(step.move, Add)  # by the shape
    return float(step.move.vector.norm()) * abs(step.strength)


def _at_unit_length(plan: SteeringPlan) -> SteeringPlan:
    (step,) = plan.interventions
    assert isinstance(step.move, Add)  # by the shape
    unit = torch.full_like(step.move.vector, step.move.width**-0.5)
    return replace(plan, interventions=(replace(step, move=Add(unit), strength=1.0),))
