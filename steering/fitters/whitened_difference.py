"""Mean difference divided by the within-class covariance (linear discriminant analysis)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf, shrunk_covariance
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters.base import TwoSets, along, mean_gap
from trimtab.steering.moves.add import Add


@dataclass(frozen=True)
class WhitenedDifference(TwoSets):
    """`v = (u.g) u`, `u ~ S^-1 g`, `S` = within-class covariance, shrunk, `g` = mean difference

    Source: Fisher's discriminant with the shrinkage of Ledoit and Wolf (2004), as scikit-learn's
    LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto") has it: each class's covariance is estimated on its
    standardised coordinates and the two are averaged by class size. Assumes normal classes of one covariance; it is
    then the direction that tells them apart best, because directions in which both classes vary much are held
    against a method that only looks at means. Standardising makes it depend on the axes. The length is the mean
    difference's on that direction, so strength 1 means what it means for mean_difference.

    Special case: with shrinkage 1 and coordinates of equal variance in both classes it is mean_difference.

    shrinkage: None estimates it; 0 is the plain covariance, 1 keeps only the variances. A given one acts on the same
    standardised coordinates (scikit-learn's on the raw ones, where one massive coordinate sets the scale of all).
    """

    source: ClassVar[str] = "Fisher 1936; Ledoit and Wolf 2004 (shrinkage)"
    rotates: ClassVar[bool] = False

    shrinkage: float | None = None

    def __post_init__(self) -> None:
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise SteeringError(f"whitened_difference: shrinkage is {self.shrinkage}, not in [0, 1]; leave it out")

    def fit_site(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Add:
        gap = mean_gap(positive, negative)
        share = len(positive) / (len(positive) + len(negative))
        within = share * self._covariance(positive) + (1 - share) * self._covariance(negative)
        return Add(along(_solved(torch.from_numpy(within), gap.cpu()).to(gap.device), gap))

    def _covariance(self, rows: Float[Tensor, "n d"]) -> np.ndarray:
        scaler = StandardScaler()
        standard = scaler.fit_transform(rows.double().cpu().numpy())
        if self.shrinkage is None:
            shrunk = ledoit_wolf(standard)[0]
        else:
            shrunk = shrunk_covariance(np.cov(standard, rowvar=False, bias=True), self.shrinkage)
        return scaler.scale_[:, None] * shrunk * scaler.scale_[None, :]


def _solved(within: Float[Tensor, "d d"], gap: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    """`within^-1 gap`; the shortest least-squares answer where the covariance is singular (shrinkage 0, few rows)."""
    factor, failed = torch.linalg.cholesky_ex(within)
    if failed:
        return torch.linalg.lstsq(within, gap[:, None], driver="gelsd").solution[:, 0]
    return torch.cholesky_solve(gap[:, None], factor)[:, 0]
