"""The gradient of the margin with respect to a vector added at the site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters._at_budget import candidates
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.learning.examples import Examples, margin_weights
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.progress import Progress, silent


@dataclass(frozen=True)
class Gradient(ModelFitter):
    """`v ~ g`, `g = d margin / d v`: of all vectors of one length, the one that raises the margin most

    Source: one step of steepest ascent; as an attribution it is the saliency of the site (Simonyan et al. 2013, arXiv
    1312.6034). The margin is the mean over pairs of log p(positive) - log p(negative), each per token; its gradient is
    summed over the span's tokens, because one vector is added to all of them. One forward and one backward pass over
    the pairs give the directions at all sites. Assumes that the first order holds up to the budget. The length spends
    the budget by forecast (`price/response.py`) on the held-out pairs, or on the pairs where none are held out.

    Special case: it is natural with infinite shrinkage.

    draws: labels drawn per token, from which the cost of the vector is known.
    """

    acts_on_heads: ClassVar[bool] = False
    source: ClassVar[str] = "steepest ascent; Simonyan et al. 2013, arXiv 1312.6034 (gradients as attributions)"

    draws: int = 1

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise SteeringError(f"gradient: {self.draws} draws price nothing; give at least 1")

    def fit(
        self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], progress: Progress = silent
    ) -> dict[str, SteeringPlan]:
        progress("learning", 0, 1)
        priced = examples.held_out_response(anatomy, sites, self.draws) if examples.held_out else None
        response = examples.response(anatomy, sites, 0 if priced else self.draws)
        weights = margin_weights(examples.pairs)
        directions = {site: weights @ response.slopes[site, examples.span].double() for site in sites}
        progress("learning", 1, 1)
        return candidates(anatomy, examples, priced or response, directions)
