"""gguf: a control vector that llama.cpp loads (`--control-vector FILE`).

Source: llama.cpp's common/common.cpp. Its loader rejects a file with `direction.0`, so a plan that acts at block 0 is
refused. It adds to every token of prompt and answer.
"""

from pathlib import Path

from trimtab.steering.errors import CannotExport
from trimtab.steering.export._additions import additions_everywhere, fingerprint_of, plan_everywhere
from trimtab.steering.export._control_vector import read_directions, read_model_hint, write_directions
from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan


class Gguf(Format):
    """Control vectors of llama.cpp."""

    suffix = ".gguf"
    tool = "llama.cpp"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        vectors = additions_everywhere(plan, self.tool)
        if 0 in vectors:
            raise CannotExport(
                "llama.cpp rejects control vectors for block 0 (the whole file); this plan acts at resid_post.0"
            )
        write_directions(path, fingerprint_of(plan, self.tool).model_type, vectors)

    def read(self, path: Path) -> SteeringPlan:
        """Also files that start at `direction.0` (EasySteer's do), which llama.cpp itself would reject."""
        return plan_everywhere(read_directions(path))

    def model_type(self, path: Path) -> str:
        return read_model_hint(path)
