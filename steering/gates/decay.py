"""Decay: full strength at the answer's first token, less at each further one."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadGate
from trimtab.steering.gates.base import GateInput, Schedule


@dataclass(frozen=True, eq=False)
class Decay(Schedule):
    """`factor = 2 ** (-age / half_life)`, age in tokens of the answer; 1 on the prompt."""

    half_life: float

    def __post_init__(self) -> None:
        if not (self.half_life > 0 and math.isfinite(self.half_life)):
            raise BadGate(f"a half-life of {self.half_life} tokens is none; give a number above 0")

    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        return 2.0 ** (-inputs.age.clamp(min=0).float() / self.half_life)
