"""AllOf: open where both gates are."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.gates.base import GateInput, Joined


@dataclass(frozen=True, eq=False)
class AllOf(Joined):
    """`factor = first * second`: logical and of gates; a schedule under a gate."""

    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        return self.first.factor(inputs) * self.second.factor(inputs)
