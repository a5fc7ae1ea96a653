"""The SNMF feature that tells the classes apart best."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.features.matching import unit_columns
from trimtab.steering.features.snmf import SNMF, fit_snmf
from trimtab.steering.fitters.base import TwoSets, along, mean_gap
from trimtab.steering.moves.add import Add


@dataclass(frozen=True)
class SNMFFeature(TwoSets):
    """`v = (u.g) u`, `u = f / |f|`, `f` = the column of F in `X ~ G F^T` that separates best, `g` = mean difference

    Source: Shafran, Geiger and Geva 2025, arXiv 2506.10920. X holds the rows of both classes, F is sparse (a feature
    is a few neurons), G >= 0. Made for `mlp_post`, where coordinates are neurons; any other site works too. The
    feature is the one with the largest |u.g| over the pooled standard deviation of the rows along u; the sign is the
    one under which positive rows project higher, and the length the mean difference's on it, so strength 1 means what
    it means for mean_difference. Steering with it at `mlp_post` is the same as with W_out f at `mlp_out`
    (`features/to_residual.py` translates a plan). Rows are sorted first, so their order does not matter. With few rows
    (`pool: mean`) features are few as well; `pool: tokens` gives it what it was made for.

    Special case: with rank 1, sparsity 1 and rows in one half-space it is the first singular axis, not centred.

    rank, sparsity, iterations, seed: see `steering/features/snmf.py`; the rank is never more than there are rows or
    coordinates. feature: a chosen one (the largest is 0) instead of the best.
    """

    source: ClassVar[str] = "Shafran et al. 2025, arXiv 2506.10920 (SNMF of MLP activations)"
    rotates: ClassVar[bool] = False

    rank: int = 64
    sparsity: float = 0.05
    iterations: int = 100
    seed: int = 0
    feature: int | None = None

    def __post_init__(self) -> None:
        self._settings(self.rank)
        if self.feature is not None and not 0 <= self.feature < self.rank:
            raise SteeringError(f"snmf: feature is {self.feature}, but with rank {self.rank} they are 0 to rank - 1")

    def fit_site(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Add:
        gap = mean_gap(positive, negative)
        rows = torch.cat([positive, negative]).float()
        rows = rows[_canonical(rows)]
        features = fit_snmf(rows, self._settings(min(self.rank, *rows.shape))).features
        unit = unit_columns(features).double()
        best = self._best(positive, negative, unit, gap) if self.feature is None else self.feature
        if best >= unit.shape[1]:
            raise SteeringError(f"snmf: feature {best} was asked for, but {len(rows)} rows gave {unit.shape[1]}")
        direction = unit[:, best]
        return Add(along(direction if direction @ gap > 0 else -direction, gap))

    def _settings(self, rank: int) -> SNMF:
        return SNMF(rank=rank, sparsity=self.sparsity, seed=self.seed, max_iterations=self.iterations)

    @staticmethod
    def _best(positive: Tensor, negative: Tensor, unit: Float[Tensor, "d k"], gap: Tensor) -> int:
        """Largest standardised difference of the two means along a feature."""
        spread = sum((side.double() @ unit).var(0, correction=0) for side in (positive, negative))
        floor = 1e-12 * gap.square().sum()  # a feature along which nothing varies or differs is no separation
        return int(((gap @ unit).square() / (torch.as_tensor(spread) + floor)).argmax())


def _canonical(rows: Float[Tensor, "n d"]) -> Tensor:
    """An order of the rows that depends on their values alone."""
    return torch.from_numpy(np.lexsort(rows.cpu().numpy().T[::-1])).to(rows.device)
