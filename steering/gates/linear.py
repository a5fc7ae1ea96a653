"""Linear: open where a linear probe's score exceeds a threshold."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.gates.base import Scored, check_vector


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Scored):
    """`score(h) = weight . h + bias`

    weight: `[d]` float32. The score of a logistic probe is its log-odds; the threshold is set for a false-positive
    rate (`steering/gates/fit.py`), so it need not be 0.
    """

    weight: Float[Tensor, "d"]
    bias: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_vector("Linear.weight", self.weight)

    @property
    def width(self) -> int:
        return self.weight.shape[-1]

    def score(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        return h @ self.weight.to(h.device) + self.bias
