"""Weight of a logistic regression that tells the classes apart."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters.base import TwoSets, along, mean_gap
from trimtab.steering.moves.add import Add


@dataclass(frozen=True)
class LogisticProbe(TwoSets):
    """`v = (u.g) u`, `u ~ w / sd`, `w` = weights of an L2 logistic regression on `(h - mean) / sd`, `g` = mean gap

    Source: the probing direction of ITI (Li et al. 2023, arXiv 2306.03341), fitted with scikit-learn. Each
    coordinate is standardised over all rows first, because the residual stream has coordinates a thousand times
    larger than the rest; the weight is mapped back to activations. Not equivariant under rotations for that reason.
    The length is the mean difference's on that direction, so strength 1 means what it means for mean_difference.

    Special case: for c -> 0 it is the mean difference divided by each coordinate's variance.

    c: inverse strength of the L2 penalty (scikit-learn's C).
    """

    source: ClassVar[str] = "Li et al. 2023, arXiv 2306.03341 (ITI's probe)"
    rotates: ClassVar[bool] = False

    c: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.c < float("inf"):
            raise SteeringError(f"logistic_probe: c is {self.c}, but an inverse penalty is above 0 and finite; try 1.0")

    def fit_site(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Add:
        gap = mean_gap(positive, negative)
        rows = torch.cat([positive, negative]).double().cpu().numpy()
        label = np.repeat([1, 0], [len(positive), len(negative)])
        scaler = StandardScaler().fit(rows)
        probe = LogisticRegression(C=self.c, max_iter=2000, tol=1e-6).fit(scaler.transform(rows), label)
        weight = torch.from_numpy(probe.coef_[0] / scaler.scale_).to(gap.device)
        return Add(along(weight, gap))
