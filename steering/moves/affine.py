"""Affine: any affine map of the vector. `T(h) = h + (h R) L^T + b`, so `delta(h) = (h R) L^T + b`."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.moves.base import AffineMap, DrawDirections, Straight, check_finite, turned


@dataclass(frozen=True, eq=False)
class Affine(Straight):
    """bias: `[d]`. left, right: `[d k]`, the linear part of the displacement, `M = left right^T`; both or neither.

    `Affine.of_map(A, b)` makes it from a full map `T(h) = h A^T + b` (then left is `A - 1` and right is None, which
    stands for the identity). With a zero linear part it is Add. Raises BadMove on shapes that do not belong together.
    """

    bias: Float[Tensor, "d"]
    left: Float[Tensor, "d k"] | None = None
    right: Float[Tensor, "d k"] | None = None

    def __post_init__(self) -> None:
        if self.bias.ndim != 1:
            raise BadMove(f"Affine takes a bias [d], got {list(self.bias.shape)}")
        check_finite("Affine.bias", self.bias)
        check_finite("Affine.left", self.left)
        check_finite("Affine.right", self.right)
        d = len(self.bias)
        if self.left is None and self.right is not None:
            raise BadMove("Affine was given `right` without `left`; a linear part is left right^T and needs both")
        if self.left is None:
            return
        other = (d, d) if self.right is None else tuple(self.right.shape)
        if tuple(self.left.shape) != other or self.left.shape[0] != d:
            raise BadMove(
                f"Affine: left {list(self.left.shape)} and right {list(other)} must both be [{d} k] for a bias of "
                f"width {d} (without right, left is the full [{d} {d}])"
            )

    @classmethod
    def of_map(cls, matrix: Float[Tensor, "d d"], bias: Float[Tensor, "d"]) -> "Affine":
        """From the map itself, `T(h) = h A^T + b`: strength 1 applies T, strength s goes the part s of the way."""
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise BadMove(f"Affine.of_map takes a square matrix [d d], got {list(matrix.shape)}")
        return cls(bias.float(), matrix.float() - torch.eye(len(matrix), device=matrix.device))

    @property
    def width(self) -> int:
        return self.bias.shape[-1]

    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        bias = self.bias.to(h.device).expand_as(h)
        if self.left is None:
            return bias
        inner = h if self.right is None else h @ self.right.to(h.device)
        return inner @ self.left.to(h.device).T + bias

    def affine(self) -> AffineMap:
        if self.left is None or self.right is not None:
            return AffineMap(self.bias, self.left, self.right)
        return AffineMap(self.bias, self.left, torch.eye(self.width, device=self.bias.device))

    def redirected(self, draw: DrawDirections) -> "Affine":
        """The same map seen in a turned frame: `W M W^T` and `W b`."""
        if self.left is None:
            return Affine(turned(self.bias[:, None], draw)[:, 0].contiguous())
        right = torch.eye(self.width, device=self.bias.device) if self.right is None else self.right
        frame = turned(torch.cat([self.bias[:, None], self.left, right], dim=1), draw)
        bias, left, right = frame.split([1, self.left.shape[1], right.shape[1]], dim=1)
        if self.right is None:
            return Affine(bias[:, 0].contiguous(), left @ right.T)
        return Affine(bias[:, 0].contiguous(), left.contiguous(), right.contiguous())

    @property
    def limit(self) -> float:
        """At 1 the map has been applied; without a linear part it is Add."""
        return math.inf if self.left is None else 1.0
