"""A vector trained to raise the margin while it costs no more than the budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters._at_budget import name_of_sites
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.fitters.gradient import Gradient
from trimtab.steering.learning.examples import Examples, texts_of
from trimtab.steering.learning.losses import divergence, margin
from trimtab.steering.learning.shortlist import best_sites
from trimtab.steering.learning.steered import base_logprobs, steered_logprobs
from trimtab.steering.learning.trainer import Objective, Training, train
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.padded_texts import completion_logprobs
from trimtab.steering.running.progress import Progress, silent


@dataclass(frozen=True)
class Optimised(ModelFitter):
    """`max over v of margin(v), subject to KL(v) <= budget`, by gradients through the model

    Source: ours as a constrained problem; optimised steering vectors: Subramani et al. 2022, arXiv 2205.05124. The
    Lagrangian `margin - m (KL - budget)` is ascended in v by Adam and descended in the multiplier m, which grows by
    `pressure` times the relative overspending of each batch; KL is that of the pairs' own completions, steered against
    base. It starts from the gradient's vector, and the step kept is the one with most margin per root nat on the
    held-out pairs. Unlike natural it does not assume that the first orders hold up to the budget. One site is a
    candidate by itself; several are trained together as another candidate, at a shared budget.

    Special case: with no steps it is gradient at the shortlisted sites.

    alone: sites (the best by forecast) trained each by itself. together: sites trained jointly (0 or 1: none).
    pressure: of the multiplier. training: steps, rate (in root-mean-square coordinates of the start) and the rest.
    """

    acts_on_heads: ClassVar[bool] = False
    source: ClassVar[str] = "Subramani et al. 2022, arXiv 2205.05124 (trained vectors); under a budget of KL: trimtab"

    alone: int = 2
    together: int = 4
    pressure: float = 0.1
    training: Training = field(default_factory=lambda: Training(steps=40, rate=0.1, batch=8, last_rate=0.1))

    def __post_init__(self) -> None:
        if self.alone < 0 or self.together < 0 or self.alone + (self.together > 1) < 1:
            raise SteeringError(
                f"optimised: {self.alone} sites alone and {self.together} together train nothing; give one of them"
            )

    def fit(
        self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], progress: Progress = silent
    ) -> dict[str, SteeringPlan]:
        groups = [[site] for site in best_sites(anatomy, examples, sites, self.alone)] if self.alone else []
        if self.together > 1 and len(sites) > 1:
            groups.append(best_sites(anatomy, examples, sites, self.together))
        starts = Gradient().fit(anatomy, examples, sites)  # of all: their response is known, from the shortlist
        plans = {}
        for group in groups:
            begun = [starts[str(site)] for site in group if str(site) in starts]
            if begun:
                plan = self._trained(anatomy, examples, begun, progress)
                plans[name_of_sites(plan.sites)] = plan
        return plans

    def _trained(
        self, anatomy: Anatomy, examples: Examples, begun: Sequence[SteeringPlan], progress: Progress
    ) -> SteeringPlan:
        """One plan of all sites, trained from their gradients, each at its share of the budget."""
        steps = [step for plan in begun for step in plan.interventions]
        lagrangian = _Lagrangian(anatomy, examples, steps, self.pressure)
        if self.training.steps:
            score = lagrangian.held_out_score if examples.held_out else None
            objective = Objective(lagrangian.loss, lagrangian.raise_multiplier, score)
            train(lagrangian.parameters, objective, len(examples.pairs), self.training, progress)
        return lagrangian.plan(detached=True)


class _Lagrangian:
    """`-(margin - m (KL - budget))` of vectors at sites."""

    def __init__(self, anatomy: Anatomy, examples: Examples, steps: Sequence[Intervention], pressure: float):
        self._anatomy, self._examples, self._steps, self._pressure = anatomy, examples, steps, pressure
        vectors = [_vector(step) / math.sqrt(len(steps)) for step in steps]
        self._sizes = [float(vector.square().mean().sqrt()) for vector in vectors]
        # In units of each start's own coordinates, so that one rate fits every site and model.
        self.parameters = [(v / size).requires_grad_() for v, size in zip(vectors, self._sizes, strict=True)]
        self._multiplier, self._spent = math.nan, math.nan

    def plan(self, detached: bool = False) -> SteeringPlan:
        vectors = [p * size for p, size in zip(self.parameters, self._sizes, strict=True)]
        steps = [
            Intervention(step.site, Add(vector.detach().clone() if detached else vector), step.span)
            for step, vector in zip(self._steps, vectors, strict=True)
        ]
        return SteeringPlan(tuple(steps), self._anatomy.fingerprint)

    def loss(self, numbers: Sequence[int]) -> Tensor:
        gain, spent = self._measured([self._examples.pairs[k] for k in numbers])
        self._spent = float(spent.detach())
        if math.isnan(self._multiplier):
            # Where the margin grows as the root of what is spent, its slope at the budget is half of their quotient.
            self._multiplier = max(float(gain.detach()), 1e-3) / (2 * self._examples.budget)
        return -(gain - self._multiplier * spent)

    def raise_multiplier(self, rate: float) -> None:
        over = self._spent / self._examples.budget - 1
        self._multiplier *= math.exp(self._pressure * max(-1.0, min(over, 1.0)))

    def held_out_score(self) -> float:
        """Margin per root nat on the held-out pairs, in batches."""
        pairs, gains, costs = self._examples.held_out, list[float](), list[float]()
        with torch.no_grad():
            for start in range(0, len(pairs), BATCH):
                gain, spent = self._measured(pairs[start : start + BATCH])
                share = len(pairs[start : start + BATCH]) / len(pairs)
                gains.append(share * float(gain))
                costs.append(share * float(spent))
        return sum(gains) / math.sqrt(max(sum(costs), 1e-12))

    def _measured(self, pairs: Sequence[AnswerPair]) -> tuple[Tensor, Tensor]:
        """Margin gained and KL spent, nats per token."""
        texts = texts_of(pairs)
        base, steered = base_logprobs(self._anatomy, texts), steered_logprobs(self._anatomy, self.plan(), texts)
        gain = margin(completion_logprobs(steered, texts)) - margin(completion_logprobs(base, texts))
        return gain, divergence(steered, base)


BATCH = 8  # held-out pairs of one pass


def _vector(step: Intervention) -> Tensor:
    assert isinstance(step.move, Add)
    return step.move.vector
