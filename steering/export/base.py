"""The Format contract: how another tool keeps steering vectors in a file, and what its file cannot say.

A format that cannot hold a part of a plan (a gate, a span, another move than an addition) refuses the plan and names
that part: a file that steers otherwise than the plan was priced would be worse than none. Nothing is executed when a
file is read.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.plans.repository import About as About


class Format(ABC):
    """One file format. suffix: of its files. tool: who reads them."""

    suffix: ClassVar[str]
    tool: ClassVar[str]

    @abstractmethod
    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        """Write one file or folder, whole or not at all. Raises CannotExport for what the format cannot say."""

    @abstractmethod
    def read(self, path: Path) -> SteeringPlan:
        """The plan that the file holds, at strength 1, for any model that it fits. Raises BadFile."""

    def model_type(self, path: Path) -> str:
        """The kind of model that the file says it is for, as transformers spells it; empty when it says none."""
        return ""
