"""Slerp: turn an activation towards a direction, keeping its norm."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.moves.base import DrawDirections, Turn, check_finite, turned

TOLERANCE = 1e-4
_FLAT = 1e-6  # sine of the angle below which h lies along the direction, and no plane is defined


@dataclass(frozen=True, eq=False)
class Slerp(Turn):
    """`moved(h) = |h| (cos(a) h/|h| + sin(a) e)`, `a = share * angle`, e the unit part of `direction` orthogonal to h.

    Source: spherical steering (arXiv 2602.08169): unit activations are interpolated along the great circle towards
    the direction, and the norm is restored. share: of the angle between h and `direction` at strength 1; the turn
    ends at the direction (share * strength = 1) and, for negative strengths, at its opposite: it never overshoots.
    An h along the direction stays. direction: `[d]`, unit. Raises BadMove for other directions or shares.
    """

    direction: Float[Tensor, "d"]
    share: float = 0.1

    def __post_init__(self) -> None:
        check_finite("Slerp.direction", self.direction)
        if self.direction.ndim != 1 or abs(self.direction.norm().item() - 1) > TOLERANCE:
            raise BadMove(
                f"Slerp turns towards one unit vector [d], got {list(self.direction.shape)}; divide by its norm"
            )
        if not 0 < self.share <= 1:
            raise BadMove(
                f"Slerp: a share of {self.share} of the angle is not in (0, 1]; the sign belongs to the strength"
            )

    @property
    def width(self) -> int:
        return self.direction.shape[-1]

    def moved(self, h: Float[Tensor, "... d"], strength: float | Tensor = 1.0) -> Float[Tensor, "... d"]:
        u = self.direction.to(h.device)
        norm = h.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        cosine = ((h @ u)[..., None] / norm).clamp(-1, 1)
        across = u - cosine * h / norm
        sine = across.norm(dim=-1, keepdim=True)
        angle = torch.atan2(sine, cosine)
        turn = torch.minimum(torch.maximum(strength * self.share * angle, angle - math.pi), angle)
        turned = turn.cos() * h + turn.sin() * norm * across / sine.clamp(min=_FLAT)
        return torch.where(sine > _FLAT, turned, h)

    def redirected(self, draw: DrawDirections) -> "Slerp":
        """The same share of the angle to a random direction."""
        return Slerp(turned(self.direction[:, None], draw)[:, 0].contiguous(), self.share)

    @property
    def limit(self) -> float:
        """Where the turn has arrived at the direction."""
        return 1 / self.share
