"""A map from the negative to the positive distribution of every coordinate (activation transport)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters.base import TwoSets, mean_gap
from trimtab.steering.learning.losses import at_quantiles
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.base import Move
from trimtab.steering.moves.diagonal import Diagonal

FLAT = 1e-4  # standard deviation below which a coordinate is shifted and not scaled, as in the authors' code
MAPS = ("mean", "gaussian", "linear")


@dataclass(frozen=True)
class AcT(TwoSets):
    """`T(h) = w * h + b`, coordinate by coordinate, so that T(negative) is distributed as positive

    Source: Rodriguez et al. 2024, arXiv 2410.23054 (AcT), all sites estimated at once on the unsteered model. mean:
    w = 1, b the difference of the means. gaussian: w = sd(positive) / sd(negative). linear: the sorted values of both
    classes are paired, which is the optimal transport of one coordinate, and w, b are their least squares. Assumes
    that coordinates can be moved apart from each other. The paper leaves values alone that lie outside of what the
    negative rows span; here every token is moved, because strength then means the same for all. Classes of unequal
    size are paired at quantiles (the paper wants equal sizes). Coordinates with a standard deviation below 1e-4 are
    shifted.

    Special case: with `mean` it is mean_difference; strength 1 moves the negative mean onto the positive one always.

    map: mean, gaussian or linear.
    """

    source: ClassVar[str] = "Rodriguez et al. 2024, arXiv 2410.23054 (AcT)"
    rotates: ClassVar[bool] = False

    map: Literal["mean", "gaussian", "linear"] = "linear"

    def __post_init__(self) -> None:
        if self.map not in MAPS:
            raise SteeringError(f"act: there is no map '{self.map}'; give {', '.join(MAPS[:-1])} or {MAPS[-1]}")

    def fit_site(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Move:
        gap = mean_gap(positive, negative)
        if self.map == "mean":
            return Add(gap.float())
        high, low = positive.double(), negative.double()
        weight = self._weight(high, low)
        return Diagonal(weight.float(), (high.mean(0) - weight * low.mean(0)).float())

    def _weight(self, high: Float[Tensor, "n d"], low: Float[Tensor, "m d"]) -> Float[Tensor, "d"]:
        spread = low.std(0, unbiased=False)
        if self.map == "gaussian":
            ratio = high.std(0, unbiased=False) / spread
        else:
            ordered, partner = low.sort(0).values, at_quantiles(high, len(low))
            centred = ordered - ordered.mean(0)
            ratio = (centred * (partner - partner.mean(0))).mean(0) / spread.square()
        return torch.where(spread > FLAT, ratio, torch.ones_like(ratio))
