"""A vector trained by preference optimisation in both directions (BiPO)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.learning.examples import Examples, texts_of
from trimtab.steering.learning.losses import LogProbs, preference
from trimtab.steering.learning.pooled import pooled
from trimtab.steering.learning.shortlist import best_sites
from trimtab.steering.learning.steered import base_logprobs, steered_logprobs
from trimtab.steering.learning.trainer import Objective, Training, train
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.padded_texts import completion_logprobs
from trimtab.steering.running.progress import Progress, silent


@dataclass(frozen=True)
class BiPO(ModelFitter):
    """`min over v of -log sigmoid(beta d (log-ratio(positive, d v) - log-ratio(negative, d v)))`, d drawn from {-1, 1}

    Source: Cao et al. 2024, arXiv 2406.00045 (BiPO), equation 3; its code has beta 0.1, zeros at the start, AdamW with
    rate 5e-4 on a residual stream of Llama-2-7B, 100 epochs. A log-ratio is the completion's summed log-probability
    under the vector minus that without it. With d = -1 the vector is subtracted and the negative answer preferred, so
    that it works in both directions. The loss is bounded by no price: KL is measured afterwards. Ours: the rate is in
    root-mean-square coordinates of the site (the paper tunes one for two models), and the site is the best by the
    gradient's forecast where several are given.

    Special case: with `both_ways` off it is DPO of a vector.

    sites: how many are trained, each by itself. beta: of the preference. both_ways: draw d. training: steps, rate and
    batch.
    """

    acts_on_heads: ClassVar[bool] = False
    source: ClassVar[str] = "Cao et al. 2024, arXiv 2406.00045 (BiPO)"

    sites: int = 1
    beta: float = 0.1
    both_ways: bool = True
    training: Training = field(default_factory=lambda: Training(steps=60, rate=0.005, batch=4, last_rate=0.0))

    def __post_init__(self) -> None:
        if self.sites < 1 or not self.beta > 0:
            raise SteeringError(
                f"bipo: {self.sites} sites with beta {self.beta:g} train nothing; give positive numbers"
            )

    def fit(
        self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], progress: Progress = silent
    ) -> dict[str, SteeringPlan]:
        shortlist = best_sites(anatomy, examples, sites, self.sites)
        return {str(site): self._trained(anatomy, examples, site, progress) for site in shortlist}

    def _trained(self, anatomy: Anatomy, examples: Examples, site: Site, progress: Progress) -> SteeringPlan:
        preferring = _Preferring(self, anatomy, examples, site)
        train([preferring.vector], Objective(preferring.loss), len(examples.pairs), self.training, progress)
        return preferring.plan(1.0, detached=True)


class _Preferring:
    """The loss of a vector at a site. vector: `[d]`, in root-mean-square coordinates of the activations there."""

    def __init__(self, method: BiPO, anatomy: Anatomy, examples: Examples, site: Site):
        self._method, self._anatomy, self._examples, self._site = method, anatomy, examples, site
        self._signs = torch.Generator().manual_seed(examples.seed)
        with torch.no_grad():
            rows = pooled(anatomy, None, texts_of(examples.pairs)[:TYPICAL], [site])[0]
        self._size = float(rows.square().median(1).values.mean().sqrt())
        self.vector = torch.zeros(anatomy.width(site), device=anatomy.device, requires_grad=True)

    def plan(self, sign: float, detached: bool = False) -> SteeringPlan:
        vector = self.vector.detach().clone() if detached else self.vector
        step = Intervention(self._site, Add(vector * self._size), self._examples.span, sign)
        return SteeringPlan((step,), self._anatomy.fingerprint)

    def loss(self, numbers: Sequence[int]) -> Tensor:
        """Of pairs drawn each with its sign; those of one sign share a pass."""
        drawn = torch.rand(len(numbers), generator=self._signs) < 0.5
        groups: dict[float, list[int]] = {1.0: [], -1.0: []}
        for number, down in zip(numbers, drawn.tolist(), strict=True):
            groups[-1.0 if down and self._method.both_ways else 1.0].append(number)
        parts = [self._of_sign(sign, group) * len(group) for sign, group in groups.items() if group]
        return torch.stack(parts).sum() / len(numbers)

    def _of_sign(self, sign: float, numbers: Sequence[int]) -> Tensor:
        texts = texts_of([self._examples.pairs[k] for k in numbers])
        base = _sums(base_logprobs(self._anatomy, texts), texts)
        steered = _sums(steered_logprobs(self._anatomy, self.plan(sign), texts), texts)
        return preference(steered, base, self._method.beta, torch.full((len(numbers),), sign, device=base.device))


TYPICAL = 32  # texts from which the size of a coordinate is taken


def _sums(rows: LogProbs, texts: Sequence[Tokens]) -> Tensor:
    """Summed log-probability of each completion."""
    return torch.stack([of_text.sum() for of_text in completion_logprobs(rows, texts)])
