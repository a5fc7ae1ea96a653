"""Angular: turn the part of an activation that lies in a plane to a given angle, keeping its norm."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.moves.base import DrawDirections, Turn, check_finite, turned

TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Angular(Turn):
    """`moved(h) = h - P h + |P h| (cos(a) b1 + sin(a) b2)`, P the projection on the plane (b1, b2)

    Source: Angular Steering (arXiv 2510.26243): b1 is the unit mean difference, b2 the first principal component of
    the differences, made orthogonal. plane: `[2 d]`, orthonormal rows. angle: in degrees, where the in-plane part ends
    at strength 1; in between it goes the shorter way round, a share of the way. With angle 0 and activations already
    in the plane it is Slerp with share 1. Raises BadMove when the rows are not orthonormal.
    """

    plane: Float[Tensor, "2 d"]
    angle: float = 0.0

    def __post_init__(self) -> None:
        check_finite("Angular.plane", self.plane)
        if self.plane.ndim != 2 or self.plane.shape[0] != 2:
            raise BadMove(f"Angular takes a plane [2 d], got {list(self.plane.shape)}")
        off = (self.plane @ self.plane.T - torch.eye(2, device=self.plane.device)).abs().max().item()
        if off > TOLERANCE:
            raise BadMove(f"Angular: the plane's rows are not orthonormal (off by {off:.2g}), so norms would change")
        if not math.isfinite(self.angle):
            raise BadMove(f"Angular: {self.angle} degrees is not an angle")

    @property
    def width(self) -> int:
        return self.plane.shape[-1]

    def moved(self, h: Float[Tensor, "... d"], strength: float | Tensor = 1.0) -> Float[Tensor, "... d"]:
        plane = self.plane.to(h.device)
        inside = h @ plane.T
        radius = inside.norm(dim=-1, keepdim=True)
        stands = torch.atan2(inside[..., 1:], inside[..., :1])
        way = torch.remainder(math.radians(self.angle) - stands + math.pi, 2 * math.pi) - math.pi
        ends = stands + strength * way
        turned = radius * torch.cat([ends.cos(), ends.sin()], dim=-1)
        return h + (turned - inside) @ plane

    def redirected(self, draw: DrawDirections) -> "Angular":
        """The same angle in a random plane."""
        return Angular(turned(self.plane.T, draw).T.contiguous(), self.angle)

    @property
    def limit(self) -> float:
        """1, where the in-plane part is at the angle."""
        return 1.0
