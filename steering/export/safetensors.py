"""safetensors: trimtab's own file. Keeps everything that a plan is: every move, gate, span and site."""

from pathlib import Path

from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan


class Safetensors(Format):
    """Plans of trimtab (`SteeringPlan.load`)."""

    suffix = ".safetensors"
    tool = "trimtab"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        plan.save(path)

    def read(self, path: Path) -> SteeringPlan:
        return SteeringPlan.load(path)
