"""Cast: the condition of conditional activation steering."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.gates.base import Scored, check_vector


@dataclass(frozen=True, eq=False, kw_only=True)
class Cast(Scored):
    """`score(h) = cos(h, tanh(P h))`, `P = c c^T / (c . c)`

    Source: CAST (Lee et al. 2024, arXiv 2409.05907), condition vector c. The tanh squashes the projection per
    coordinate, so the score depends on the activation's scale. Where the projection is small against 1 it is the
    cosine of h to the line through c: `|cos(h, c)|`. The released code calls a condition "larger" when the *threshold*
    is the larger one; here it opens above the threshold unless `below`.
    """

    condition: Float[Tensor, "d"]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_vector("Cast.condition", self.condition)

    @property
    def width(self) -> int:
        return self.condition.shape[-1]

    def score(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        c = self.condition.to(h.device)
        squashed = (((h @ c) / (c @ c))[..., None] * c).tanh()
        norms = h.norm(dim=-1) * squashed.norm(dim=-1)
        return (h * squashed).sum(-1) / norms.clamp(min=1e-12)
