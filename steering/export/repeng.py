"""repeng: `ControlVector.import_gguf(FILE)`. The layout of `gguf`, with block 0 allowed.

Source: repeng 0.4, repeng/extract.py. repeng adds `coeff` times the vector to the output of the block; strength 1
here is `coeff` 1 there.
"""

from pathlib import Path

from trimtab.steering.export._additions import additions_everywhere, fingerprint_of, plan_everywhere
from trimtab.steering.export._control_vector import read_directions, read_model_hint, write_directions
from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan


class Repeng(Format):
    """Control vectors of repeng."""

    suffix = ".gguf"
    tool = "repeng"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        write_directions(path, fingerprint_of(plan, self.tool).model_type, additions_everywhere(plan, self.tool))

    def read(self, path: Path) -> SteeringPlan:
        return plan_everywhere(read_directions(path))

    def model_type(self, path: Path) -> str:
        return read_model_hint(path)
