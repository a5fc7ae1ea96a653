"""Ablate: take the part along given directions out. `delta(h) = -(h - center) B^T B`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.moves.base import AffineMap, DrawDirections, Straight, check_finite, turned

TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Ablate(Straight):
    """basis: `[k d]`, orthonormal rows: the directions removed. center: `[d]`, what is left in their place (None: 0).

    Directional ablation with rank 1 and no center: `h - (h.r) r` (refusal direction, arXiv 2406.11717). At strength 1
    it is a projection: doing it twice is doing it once. With a center (the mean of a reference set) it is mean
    ablation inside the subspace. Raises BadMove when the rows are not orthonormal.
    """

    basis: Float[Tensor, "k d"]
    center: Float[Tensor, "d"] | None = None

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or self.basis.shape[0] == 0:
            raise BadMove(
                f"Ablate takes a basis [k d] with k >= 1, got {list(self.basis.shape)}; one direction is [1 d]"
            )
        check_finite("Ablate.basis", self.basis)
        check_finite("Ablate.center", self.center)
        if self.center is not None and self.center.shape != self.basis.shape[1:]:
            raise BadMove(f"Ablate: center is {list(self.center.shape)}, but the basis has width {self.basis.shape[1]}")
        off = (self.basis @ self.basis.T - torch.eye(len(self.basis), device=self.basis.device)).abs().max().item()
        if off > TOLERANCE:
            raise BadMove(
                f"Ablate: the {len(self.basis)} rows of the basis are not orthonormal (off by {off:.2g}), so removing "
                f"them would overshoot; use the Q of torch.linalg.qr(rows.T), transposed"
            )

    @property
    def width(self) -> int:
        return self.basis.shape[-1]

    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        basis = self.basis.to(h.device)
        away = h if self.center is None else h - self.center.to(h.device)
        return -(away @ basis.T) @ basis

    def affine(self) -> AffineMap:
        bias = torch.zeros_like(self.basis[0])
        if self.center is not None:
            bias = (self.center @ self.basis.T) @ self.basis
        return AffineMap(bias, left=-self.basis.T, right=self.basis.T)

    def redirected(self, draw: DrawDirections) -> "Ablate":
        """As many random directions, which come to rest at the same center."""
        return Ablate(turned(self.basis.T, draw).T.contiguous(), self.center)

    @property
    def limit(self) -> float:
        """A projection is done at 1; at 2 it is a mirror."""
        return 1.0
