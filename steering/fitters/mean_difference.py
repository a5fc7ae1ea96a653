"""Mean of the positive rows minus mean of the negative rows."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.fitters.base import TwoSets, mean_gap
from trimtab.steering.moves.add import Add


@dataclass(frozen=True)
class MeanDifference(TwoSets):
    """`v = mean(positive) - mean(negative)`

    Source: CAA (Rimsky et al. 2023, arXiv 2312.06681), which adds the raw vector from the end of the instruction on;
    DiffMean of AxBench (arXiv 2501.17148) is the same with `unit`. Assumes that the classes differ by a shift. When
    rows are pairs, it is the mean of their differences; with classes of equal size, mean-centring (arXiv 2312.03813)
    is the same direction.

    unit: divide by the norm; strength then counts activation units instead of mean differences.
    """

    source: ClassVar[str] = "Rimsky et al. 2023, arXiv 2312.06681 (CAA)"
    rotates: ClassVar[bool] = True

    unit: bool = False

    def fit_site(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Add:
        gap = mean_gap(positive, negative)
        return Add((gap / gap.norm() if self.unit else gap).float())
