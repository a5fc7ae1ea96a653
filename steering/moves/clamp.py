"""Clamp: keep the coordinate along a direction in an interval. `delta(h) = (clip(h.u, low, high) - h.u) u`."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.moves.base import DrawDirections, Straight, check_finite, turned

TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Clamp(Straight):
    """direction: `[d]`, a unit vector. low, high: bounds of the coordinate in activation units; -inf or inf is open.

    With low = high = 0 it is Ablate of rank 1; with low = high = c it sets the coordinate; with one end open it caps
    or floors it and leaves the rest of the tokens to the bit. Raises BadMove when nothing lies between the bounds.
    """

    direction: Float[Tensor, "d"]
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.direction.ndim != 1:
            raise BadMove(f"Clamp takes one direction [d], got {list(self.direction.shape)}")
        check_finite("Clamp.direction", self.direction)
        norm = self.direction.norm().item()
        if abs(norm - 1) > TOLERANCE:
            raise BadMove(f"Clamp: the direction has norm {norm:.4g}, so bounds would not be coordinates; divide by it")
        if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
            raise BadMove(
                f"Clamp: no coordinate lies in [{self.low}, {self.high}]; give low <= high, finite on one side"
            )
        if self.low == -math.inf and self.high == math.inf:
            raise BadMove("Clamp without bounds moves nothing; give low, high or both")

    @property
    def width(self) -> int:
        return self.direction.shape[-1]

    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        u = self.direction.to(h.device)
        along = (h @ u)[..., None]
        return (along.clamp(self.low, self.high) - along) * u

    def affine(self) -> None:
        """It bends at the bounds: no affine map does that."""

    def redirected(self, draw: DrawDirections) -> "Clamp":
        """The same bounds along a random direction."""
        return Clamp(turned(self.direction[:, None], draw)[:, 0].contiguous(), self.low, self.high)

    @property
    def limit(self) -> float:
        """At 1 the coordinate is at its bound."""
        return 1.0
