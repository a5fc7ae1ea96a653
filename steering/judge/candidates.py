"""Candidates: the named plans among which a judgement chooses, and how a fitter makes them again from shuffled labels.

A candidate acts at one site or at many. What a fitter makes of rows is one plan with an intervention at every site;
its candidates are these sites apart, each named by its site.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from trimtab.steering.errors import BadRows, SteeringError
from trimtab.steering.fitters.base import Fitter, ModelFitter
from trimtab.steering.learning.examples import Examples
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves.base import Move
from trimtab.steering.moves.gated import regated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.contrast import Contrast, Pair

Candidates = Mapping[str, SteeringPlan]


class Refit(Protocol):
    """The fitter that made the candidates, on its own examples with shuffled labels."""

    def __call__(self, generator: torch.Generator) -> Candidates:
        """The candidates that it makes then; those without a direction are left out. generator: shuffles the labels.
        Raises BadRows when none is left."""


def by_site(plan: SteeringPlan) -> dict[str, SteeringPlan]:
    """One candidate for each site of a plan, named by the site, in the plan's order."""
    sites = dict.fromkeys(step.site for step in plan.interventions)
    return {
        str(site): replace(plan, interventions=tuple(step for step in plan.interventions if step.site == site))
        for site in sites
    }


@dataclass(frozen=True, eq=False)
class RowRefit:
    """Refits of a fitter of rows: the candidates' plans with every move fitted anew at the same site, span and
    strength, on one shuffle for all sites, as one set of labels would give."""

    fitter: Fitter
    contrast: Contrast
    candidates: Candidates

    def __call__(self, generator: torch.Generator) -> Candidates:
        moves = self._moves(shuffled(self._rows(), generator))
        refits = {
            name: replace(plan, interventions=tuple(_with(step, moves[step.site]) for step in plan.interventions))
            for name, plan in self.candidates.items()
            if all(step.site in moves for step in plan.interventions)
        }
        if not refits:
            method = type(self.fitter).__name__
            raise BadRows(f"{method} finds no direction in rows with shuffled labels; ask for no refits")
        return refits

    def _rows(self) -> Contrast:
        """Those at the candidates' sites."""
        steps = [step for plan in self.candidates.values() for step in plan.interventions]
        return Contrast({step.site: rows_at(self.contrast, step) for step in steps}, self.contrast.paired)

    def _moves(self, contrast: Contrast) -> dict[Site, Move]:
        """A move per site; none where the rows give no direction."""
        moves: dict[Site, Move] = {}
        for site, pair in contrast.sites.items():
            try:
                moves[site] = self.fitter.interventions(Contrast({site: pair}, contrast.paired))[0].move
            except BadRows:
                continue
        return moves


@dataclass(frozen=True, eq=False)
class ModelRefit:
    """Refits of a method that learns through the model: the same training on shuffled labels, from the same sites. The
    candidates have names of their own, since it may choose other sites."""

    fitter: ModelFitter
    anatomy: Anatomy
    examples: Examples
    sites: Sequence[Site]

    def __call__(self, generator: torch.Generator) -> Candidates:
        return self.fitter.fit(self.anatomy, self.examples.shuffled(generator), self.sites)


def shuffled(contrast: Contrast, generator: torch.Generator) -> Contrast:
    """The contrast with its labels shuffled. Paired rows change sides in exactly half of the pairs, so nothing of the
    difference is left over by chance; unpaired rows are dealt anew."""
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


def rows_at(contrast: Contrast, step: Intervention) -> Pair:
    """The rows where an intervention acts; those of one head from the rows of all. Raises SteeringError when there are
    none."""
    site, width = step.site, step.move.width
    if site not in contrast.sites and site.head is not None and site.whole in contrast.sites and width:
        pair, columns = contrast.sites[site.whole], slice(site.head * width, (site.head + 1) * width)
        return Pair(pair.positive[:, columns], pair.negative[:, columns])
    if site not in contrast.sites:
        sites = ", ".join(str(one) for one in contrast.sites)
        raise SteeringError(f"no rows at {site}, where the plan acts; its placebos need them. Rows at: {sites}")
    return contrast.sites[site]


def _with(step: Intervention, move: Move) -> Intervention:
    return replace(step, move=regated(step.move, move))


def _swapped(pair: Pair, swap: Tensor) -> Pair:
    swap = swap[:, None]
    return Pair(torch.where(swap, pair.negative, pair.positive), torch.where(swap, pair.positive, pair.negative))


def _dealt(pair: Pair, order: Tensor, n: int) -> Pair:
    rows = torch.cat([pair.positive, pair.negative])[order]
    return Pair(rows[:n], rows[n:])
