"""First principal axis of the pairs' differences, not centred."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadRows
from trimtab.steering.fitters.base import Fitter, along, mean_gap
from trimtab.steering.moves.add import Add


@dataclass(frozen=True)
class PCA(Fitter):
    """`v = (u.g) u`, `u` = first right singular vector of `positive_i - negative_i`, `g` = mean difference

    Source: representation engineering (Zou et al. 2023, arXiv 2310.01405). The axis is taken about zero. RepE and
    repeng's `pca_diff` subtract the mean of the differences first, and with it the mean difference itself: what
    is left is how the pairs vary among themselves (tests/originals shows it). Rows that are not pairs are taken about
    the middle of the two class means, as in repeng's `pca_center`. Assumes that the contrast is the largest thing the
    pairs differ in; where a massive coordinate is larger, the axis is that coordinate, and `fit` warns. The sign is the
    one under which positive rows project higher; the length is the mean difference's on that axis, so strength 1 means
    what it means for mean_difference.

    Special case: when every pair differs by the same vector, it is mean_difference.
    """

    source: ClassVar[str] = "Zou et al. 2023, arXiv 2310.01405 (RepE), uncentred"
    rotates: ClassVar[bool] = True

    def fit_site(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Add:
        if len(positive) != len(negative):
            return self.fit_unpaired(positive, negative)
        return _on_first_axis(positive.double() - negative.double(), mean_gap(positive, negative))

    def fit_unpaired(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Add:
        middle = (positive.double().mean(0) + negative.double().mean(0)) / 2
        return _on_first_axis(torch.cat([positive, negative]).double() - middle, mean_gap(positive, negative))


def _on_first_axis(rows: Float[Tensor, "n d"], gap: Float[Tensor, "d"]) -> Add:
    values, axes = torch.linalg.svd(rows, full_matrices=False)[1:]
    if len(values) > 1 and (values[0] - values[1]).item() <= 1e-9 * values[0].item():
        raise BadRows("the first two principal axes are equally long, so the first is arbitrary; use more rows")
    axis = axes[0]
    return Add(along(axis if axis @ gap > 0 else -axis, gap))
