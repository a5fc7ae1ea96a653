"""Massive coordinates: a few coordinates of a residual stream are hundreds of times as large as the rest, on every
text. Methods that follow what is largest follow them, whatever the contrast (Sun et al. 2024, arXiv 2402.17762).

One leads a direction when it holds most of it although the other coordinates tell the classes apart better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.model.site import Site
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.running.contrast import Contrast

SHARE = 0.5  # of a direction's squared length, in one coordinate
MASSIVE = 10.0  # times the median coordinate, by root mean square
BETTER = 2.0  # times as far apart do the classes lie along the other coordinates
FEWEST = 4  # rows of each class, so that each half has a variance


class MassiveCoordinate(UserWarning):
    """A fitted direction is little more than one coordinate that does not tell the classes apart."""


@dataclass(frozen=True)
class Lead:
    """One coordinate that leads the direction at a site. share: of the direction's squared length. apart: distance of
    the classes' means along the direction, in standard deviations within the classes; others: the same along the mean
    difference without the coordinate, on rows that it was not taken from."""

    site: Site
    coordinate: int
    share: float
    apart: float
    others: float

    def __str__(self) -> str:
        return (
            f"at {self.site} coordinate {self.coordinate} alone holds {self.share:.0%} of the direction's squared "
            f"length, and along it the classes lie {self.apart:.2g} standard deviations apart; along the mean "
            f"difference without it, {self.others:.2g}"
        )


def leads_of(steps: Sequence[Intervention], contrast: Contrast) -> list[Lead]:
    """The sites at which a massive coordinate leads what a fitted plan adds: its vector, or the mean displacement of
    the negative rows. Moves that are no affine maps have none."""
    leads = (_lead(step, contrast) for step in steps)
    return [lead for lead in leads if lead is not None]


def warning_of(method: str, leads: Sequence[Lead]) -> str:
    """One line for all sites, the worst first, with the cure."""
    first, *others = sorted(leads, key=lambda lead: -lead.share)
    more = f" (so at {len(others)} more sites)" if others else ""
    return (
        f"{method}: a massive coordinate leads, not the contrast: {first}{more}; use whitened_difference, which weighs "
        f"every coordinate by its variance, or mean_difference"
    )


def _lead(step: Intervention, contrast: Contrast) -> Lead | None:
    linear, pair = step.move.affine(), contrast.sites.get(step.site)
    if linear is None or pair is None or min(len(pair.positive), len(pair.negative)) < FEWEST:
        return None
    added = linear.bias.detach() if linear.constant else step.move.delta(pair.negative.float()).mean(0)
    unit = torch.nn.functional.normalize(added.double().cpu(), dim=0)
    coordinate = int(unit.abs().argmax())
    share = float(unit[coordinate] ** 2)
    positive, negative = pair.positive.double().cpu(), pair.negative.double().cpu()
    sizes = torch.cat([positive, negative]).square().mean(0).sqrt()
    if share < SHARE or sizes[coordinate] < MASSIVE * sizes.median():
        return None
    apart, others = abs(_apart(unit, positive, negative)), _without(coordinate, positive, negative)
    return Lead(step.site, coordinate, share, apart, others) if others > BETTER * apart else None


def _without(coordinate: int, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> float:
    """How far apart the classes lie along the mean difference without one coordinate: taken from one half of the rows
    and measured on the other, both ways, since a difference of few rows follows their noise."""
    distances = []
    for half in (0, 1):
        gap = positive[half::2].mean(0) - negative[half::2].mean(0)
        gap[coordinate] = 0
        distances.append(_apart(gap, positive[1 - half :: 2], negative[1 - half :: 2]))
    return sum(distances) / 2


def _apart(direction: Float[Tensor, "d"], positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> float:
    """Distance of the means along a direction, in pooled standard deviations; 0 where nothing varies or differs."""
    high, low = positive @ direction, negative @ direction
    spread = ((high.var() + low.var()) / 2).sqrt()
    return float((high.mean() - low.mean()) / spread) if spread > 0 else 0.0
