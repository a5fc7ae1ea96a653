"""The Fitter contract: rows in, a plan out. Fields of the dataclass are the hyper-parameters, nothing else."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.contrast import Contrast
from trimtab.steering.intervention import Intervention
from trimtab.steering.moves.base import Move
from trimtab.steering.plan import SteeringPlan


class Fitter(ABC):
    """Abstract base; subclasses are frozen dataclasses, one per file, whose docstring is the method's page:
    equation, source, assumptions, and the special case in which it becomes another method."""

    @abstractmethod
    def fit_site(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Move:
        """The move at one site, from float32 rows. Deterministic; the inputs are not changed."""

    def fit(self, contrast: Contrast) -> SteeringPlan:
        """One intervention per site of the contrast, in its order."""
        steps = (Intervention(site, self.fit_site(p.positive, p.negative)) for site, p in contrast.sites.items())
        return SteeringPlan(tuple(steps))
