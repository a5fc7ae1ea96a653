"""Add: the plain steering vector. `delta(h) = v`."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.moves.base import AffineMap, Move


@dataclass(frozen=True, eq=False)
class Add(Move):
    """vector: `[d]`, added as it is (nothing normalises it)."""

    vector: Float[Tensor, "d"]

    @property
    def width(self) -> int:
        return self.vector.shape[-1]

    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.vector.to(h.device).expand_as(h)

    def affine(self) -> AffineMap:
        return AffineMap(bias=self.vector)
