"""Maps of many sites at once, trained so that the negative texts' activations are distributed as the positive ones'."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadRows, SteeringError
from trimtab.steering.fitters._at_budget import name_of_sites
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.learning.examples import Examples
from trimtab.steering.learning.losses import wasserstein
from trimtab.steering.learning.pooled import pooled
from trimtab.steering.learning.trainer import Objective, Training, train
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.diagonal import Diagonal
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.progress import Progress, silent


@dataclass(frozen=True)
class LinEAS(ModelFitter):
    """`T_l(h) = w_l * h + b_l` at every site l, `min sum_l W2^2(T(negative)_l, positive_l)` over all maps jointly

    Source: Rodriguez et al. 2025, arXiv 2503.10679 (LinEAS). Activations are the mean over a text's completion; those
    of the positive texts are taken once, without maps, those of the negative ones under all maps, through which the
    gradients go. W2^2 is that of each coordinate's sorted values. After each step a proximal one moves every w - 1 and
    b towards 0 by the learning rate times `sparsity`, and each site's as a whole by that times `group`. Texts need not
    be pairs. Ours: coordinates are measured in the standard deviations of the negative texts (theirs are raw), so that
    a massive coordinate is not all that is trained, and Adam takes a few dozen steps where they take 1,000 of SGD. Its
    strength 1 has arrived at the positive texts, whatever that costs; it does not look at the budget.

    Special case: with a large `sparsity` or `group` every map stays the identity, and the fit is refused.

    sparsity, group: weights of the penalties. training: steps, rate and batch (texts of each side).
    """

    acts_on_heads: ClassVar[bool] = False
    source: ClassVar[str] = "Rodriguez et al. 2025, arXiv 2503.10679 (LinEAS)"

    sparsity: float = 0.0
    group: float = 0.0
    training: Training = field(default_factory=lambda: Training(steps=60, rate=0.03, batch=32, last_rate=0.1))

    def __post_init__(self) -> None:
        if self.sparsity < 0 or self.group < 0:
            raise SteeringError(
                f"lineas: penalties {self.sparsity:g} and {self.group:g} would be rewards; give 0 or more"
            )

    def fit(
        self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], progress: Progress = silent
    ) -> dict[str, SteeringPlan]:
        maps = _Maps.of(anatomy, examples, sites)
        objective = Objective(maps.loss, lambda rate: maps.shrink(rate * self.sparsity, rate * self.group))
        train([maps.weights, maps.biases], objective, len(examples.pairs), self.training, progress)
        plan = maps.plan()
        if not plan.interventions:
            raise BadRows("lineas: every map is the identity; lower `sparsity` and `group`")
        return {name_of_sites(plan.sites): plan}


class _Maps:
    """The maps of all sites. weights, biases: `[total d]`, w - 1 and b over the negative texts' spread, all sites side
    by side; both are 0 at the start."""

    def __init__(self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], rows: tuple[Tensor, Tensor]):
        self._anatomy, self._examples, self._sites = anatomy, examples, list(sites)
        negative, self._targets = rows
        self._spread = negative.std(0, unbiased=False).clamp_min(1e-4 * float(negative.std(0).mean()) + 1e-12)
        self._widths = [anatomy.width(site) for site in sites]
        self.weights = torch.zeros_like(self._spread, requires_grad=True)
        self.biases = torch.zeros_like(self._spread, requires_grad=True)

    @classmethod
    def of(cls, anatomy: Anatomy, examples: Examples, sites: Sequence[Site]) -> "_Maps":
        with torch.no_grad():
            sides = [[pair.negative for pair in examples.pairs], [pair.positive for pair in examples.pairs]]
            negative, positive = (_rows(anatomy, None, texts, sites) for texts in sides)
        return cls(anatomy, examples, sites, (negative, positive))

    def plan(self) -> SteeringPlan:
        """As trained, without the sites whose map is the identity."""
        steps = self._steps(self.weights.detach().clone(), self.biases.detach().clone())
        return SteeringPlan(tuple(steps), self._anatomy.fingerprint)

    def loss(self, numbers: Sequence[int]) -> Tensor:
        texts = [self._examples.pairs[k].negative for k in numbers]
        steps = self._steps(self.weights, self.biases, every=True)
        rows = _rows(self._anatomy, SteeringPlan(tuple(steps)), texts, self._sites)
        return wasserstein(rows / self._spread, self._targets / self._spread).mean()

    def shrink(self, each: float, group: float) -> None:
        """The proximal step: soft thresholds of coordinates by `each`, then of sites' norms by `group sqrt(d)`."""
        for values in (self.weights, self.biases):
            values.copy_(values.sign() * (values.abs() - each).clamp_min(0))
            for part in values.split(self._widths):
                part.mul_((1 - group * len(part) ** 0.5 / part.norm().clamp_min(1e-12)).clamp_min(0))

    def _steps(self, weights: Tensor, biases: Tensor, every: bool = False) -> list[Intervention]:
        spread, span = self._spread.split(self._widths), self._examples.span
        parts = zip(self._sites, weights.split(self._widths), biases.split(self._widths), spread, strict=True)
        return [
            Intervention(site, Diagonal(1 + w, b * s), span)
            for site, w, b, s in parts
            if every or bool(w.any()) or bool(b.any())
        ]


def _rows(
    anatomy: Anatomy, plan: SteeringPlan | None, texts: Sequence[Tokens], sites: Sequence[Site]
) -> Float[Tensor, "n d"]:
    """Means over completions at all sites, side by side."""
    return torch.cat(pooled(anatomy, plan, texts, sites), dim=1)
