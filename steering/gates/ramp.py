"""Ramp: from nothing to full strength over the answer's first tokens."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadGate
from trimtab.steering.gates.base import GateInput, Schedule


@dataclass(frozen=True, eq=False)
class Ramp(Schedule):
    """`factor = min(1, (age + 1) / tokens)`: `1 / tokens` for the answer's first token, 1 from the `tokens`-th on; 0 on
    the prompt before its last token."""

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadGate(f"a ramp over {self.tokens} tokens is none; give 1 or more")

    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        return ((inputs.age + 1).float() / self.tokens).clamp(0, 1)
