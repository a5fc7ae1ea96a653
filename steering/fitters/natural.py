"""The direction of most margin per nat: the gradient, divided by Fisher's information at the site."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters._at_budget import candidates
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.learning.examples import Examples, margin_weights
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.pulls import SitePlace
from trimtab.steering.price.response import LinearResponse
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.progress import Progress, silent

SHRINKAGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, float("inf"))  # mean eigenvalues; inf: the plain gradient
DEFAULT = 10.0  # where nothing is held out


@dataclass(frozen=True)
class Natural(ModelFitter):
    """`v ~ (F + c tr(F) / d)^-1 g`, `g` = gradient of the margin, `F` = Fisher's information per token, at the site

    Source: the natural gradient (Amari 1998, Neural Computation 10), of a vector that is added at a site. To second
    order a vector v gains g.v and costs v'Fv / 2 nats per token, so for a small budget no vector at that site gains
    more than F^-1 g does. F is estimated from labels that the model draws itself: the gradient of their summed
    log-probability is a sample whose outer product has mean F, since labels drawn apart have no cross terms. There are
    `draws` such samples per text; where they are fewer than the width, F is not of full rank, and F^-1 g follows its
    noise. So F is shrunk towards its mean eigenvalue, at each site by the c that forecasts most margin on the held-out
    pairs, gradient and F taken there. Assumes that the second order holds up to the budget, on the pairs' text.

    Special case: with infinite shrinkage it is gradient.

    shrinkage: c; None chooses it (without held-out pairs it is 10). draws: labels per token.
    """

    acts_on_heads: ClassVar[bool] = False
    source: ClassVar[str] = "natural gradient, Amari 1998; of a steering vector: trimtab"

    shrinkage: float | None = None
    draws: int = 2

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise SteeringError(f"natural: {self.draws} draws know nothing of Fisher's information; give at least 1")
        if self.shrinkage is not None and not self.shrinkage > 0:
            raise SteeringError(
                f"natural: shrinkage is {self.shrinkage}, but fewer samples than coordinates leave Fisher's matrix "
                f"without an inverse; give a number above 0, in mean eigenvalues"
            )

    def fit(
        self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], progress: Progress = silent
    ) -> dict[str, SteeringPlan]:
        progress("learning", 0, 2)
        fitted = _Half.of(examples.response(anatomy, sites, self.draws), examples.pairs)
        progress("learning", 1, 2)
        held_out = None
        if examples.held_out:
            held_out = _Half.of(examples.held_out_response(anatomy, sites, self.draws), examples.held_out)
        directions = {site: self._direction(fitted, held_out, (site, examples.span)) for site in sites}
        progress("learning", 2, 2)
        return candidates(anatomy, examples, (held_out or fitted).response, directions)

    def _direction(self, fitted: "_Half", held_out: "_Half | None", place: SitePlace) -> Float[Tensor, "d"]:
        metric = Metric.of(fitted.response, place)
        gradient = fitted.gradient(place)
        if self.shrinkage is not None or held_out is None:
            return metric.solved(gradient, DEFAULT if self.shrinkage is None else self.shrinkage)
        directions = [metric.solved(gradient, shrinkage) for shrinkage in SHRINKAGES]
        return max(directions, key=lambda direction: held_out.per_root_nat(place, direction))


@dataclass(frozen=True, eq=False)
class _Half:
    """The pairs that are fitted, or those that are held out: their response and the weights of the margin in it."""

    response: LinearResponse
    weights: Float[Tensor, "2n"]

    @classmethod
    def of(cls, response: LinearResponse, pairs: Sequence[AnswerPair]) -> "_Half":
        return cls(response, margin_weights(pairs))

    def gradient(self, place: SitePlace) -> Float[Tensor, "d"]:
        return self.weights @ self.response.slopes[place].double()

    def per_root_nat(self, place: SitePlace, direction: Float[Tensor, "d"]) -> float:
        """Forecast margin at one nat per token; 0 for a direction that moves no logit."""
        return self.response.effect_at(1.0, self.weights.tolist(), [(place, direction)])


@dataclass(frozen=True, eq=False)
class Metric:
    """Fisher's information per token at a place, from r samples: `F = axes diag(values) axes'`. values: `[k]`
    eigenvalues. axes: `[d k]`, orthonormal."""

    values: Float[Tensor, "k"]
    axes: Float[Tensor, "d k"]

    @classmethod
    def of(cls, response: LinearResponse, place: SitePlace) -> "Metric":
        scores = response.scores[place].double()
        samples = scores.flatten(0, 1) / (scores.shape[1] * response.tokens) ** 0.5
        _, singular, axes = torch.linalg.svd(samples, full_matrices=False)
        return cls(singular.square(), axes.T)

    @cached_property
    def mean(self) -> float:
        """The mean eigenvalue, tr(F) / d."""
        return float(self.values.sum()) / len(self.axes)

    def solved(self, gradient: Float[Tensor, "d"], shrinkage: float) -> Float[Tensor, "d"]:
        """`(F + shrinkage mean)^-1 gradient`, up to a factor; the gradient itself for infinite shrinkage, or where the
        place moves no logit."""
        ridge = shrinkage * self.mean
        if not 0 < ridge < float("inf"):
            return gradient.double()
        gradient = gradient.double()
        along = self.axes.T @ gradient
        across = gradient - self.axes @ along
        return across + self.axes @ (along * ridge / (self.values + ridge))
