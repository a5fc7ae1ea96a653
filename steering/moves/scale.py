"""Scale: multiply the whole vector. `delta(h) = (factor - 1) h`."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.moves.base import AffineMap, DrawDirections, Straight


@dataclass(frozen=True, eq=False)
class Scale(Straight):
    """factor: what the vector is multiplied by at strength 1. Takes vectors of any width.

    With factor 0 at `z.b.h` it is zero ablation of a head, at `attn_out` or `mlp_out` of a sublayer. Raises BadMove on
    a factor that is not finite or is 1 (nothing would happen).
    """

    factor: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor) or self.factor == 1:
            raise BadMove(f"Scale by {self.factor} has no effect that can be run; give a finite factor other than 1")

    @property
    def width(self) -> None:
        return None

    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return (self.factor - 1) * h

    def affine(self) -> AffineMap:
        return AffineMap(torch.zeros(1), diagonal=torch.tensor([self.factor - 1.0]))

    def redirected(self, draw: DrawDirections) -> "Scale":
        """Raises BadMove: every direction is scaled alike."""
        raise BadMove(
            "Scale moves every direction alike, so no random direction can stand beside it; ask for no random and no "
            "covariance placebos, and compare it with the same scale at other sites"
        )

    @property
    def limit(self) -> float:
        """Where a shrinking scale has taken the whole vector away; beyond, it turns it round."""
        return 1 / (1 - self.factor) if self.factor < 1 else math.inf
