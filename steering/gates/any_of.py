"""AnyOf: open where either gate is."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.gates.base import GateInput, Joined


@dataclass(frozen=True, eq=False)
class AnyOf(Joined):
    """`factor = max(first, second)`: logical or of gates."""

    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        return self.first.factor(inputs).maximum(self.second.factor(inputs))
