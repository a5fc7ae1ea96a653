"""Add: the plain steering vector. `delta(h) = v`."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.moves.base import AffineMap, DrawDirections, Straight, check_finite, turned


@dataclass(frozen=True, eq=False)
class Add(Straight):
    """vector: `[d]`, added as it is (nothing normalises it). Raises BadMove when it is not one vector."""

    vector: Float[Tensor, "d"]

    def __post_init__(self) -> None:
        check_finite("Add.vector", self.vector)
        if self.vector.ndim != 1:
            raise BadMove(f"Add takes one vector [d], got {list(self.vector.shape)}")

    @property
    def width(self) -> int:
        return self.vector.shape[-1]

    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.vector.to(h.device).expand_as(h)

    def affine(self) -> AffineMap:
        return AffineMap(bias=self.vector)

    def redirected(self, draw: DrawDirections) -> "Add":
        return Add(turned(self.vector[:, None], draw)[:, 0].contiguous())

    @property
    def limit(self) -> float:
        """None: any multiple of a vector is a steering vector."""
        return math.inf
