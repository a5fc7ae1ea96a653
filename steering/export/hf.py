"""hf: a folder in the form of a Hugging Face model repository, for the Hub or a disk.

`plan.safetensors` is trimtab's own file (everything that the plan is), `config.json` names the format and the base
model, `README.md` is the model card (`steering/plans/repository.py`). Nothing in it is ever executed.
"""

from pathlib import Path

from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.plans.repository import read_repository, write_repository


class Hf(Format):
    """A model repository."""

    suffix = ""
    tool = "the Hugging Face Hub"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        write_repository(plan.pack(), path, about)

    def read(self, path: Path) -> SteeringPlan:
        return SteeringPlan.unpack(read_repository(path))
