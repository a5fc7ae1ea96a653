"""First: the answer's first tokens only."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadGate
from trimtab.steering.gates.base import GateInput, Schedule


@dataclass(frozen=True, eq=False)
class First(Schedule):
    """`factor = 1` at the positions that write the first `tokens` tokens of the answer (and on the prompt), then 0."""

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadGate(f"a schedule of {self.tokens} tokens never opens; give 1 or more")

    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        return (inputs.age < self.tokens).float()
