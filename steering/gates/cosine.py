"""Cosine: open where the activation points along a direction."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.gates.base import Scored, check_vector


@dataclass(frozen=True, eq=False, kw_only=True)
class Cosine(Scored):
    """`score(h) = cos(h - center, direction)`, from -1 to 1, whatever the activation's norm.

    direction: `[d]`, of any norm. center: `[d]`, the mean of a reference set; None is the origin, from where all
    activations of a language model look alike (they share a large mean).
    """

    direction: Float[Tensor, "d"]
    center: Float[Tensor, "d"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_vector("Cosine.direction", self.direction)
        if self.center is not None:
            check_vector("Cosine.center", self.center)

    @property
    def width(self) -> int:
        return self.direction.shape[-1]

    def score(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        away = h if self.center is None else h - self.center.to(h.device)
        unit = self.direction.to(h.device) / self.direction.norm()
        return (away @ unit) / away.norm(dim=-1).clamp(min=1e-12)
