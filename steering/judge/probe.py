"""Probe: one plan on the selection pairs, its KL and its margins from the same pass."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.divergence import kl_divergence
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.scorer import Forced, Scorer

STORED_BYTES = 256 * 2**20  # base logits of the pairs are stored up to this size, and made anew for each plan beyond


@dataclass
class Probe:
    """One pass over the pairs gives both the KL(steered || base) and the margins of a plan."""

    scorer: Scorer
    pairs: Sequence[AnswerPair]
    _base: list[Forced] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.texts = [text for pair in self.pairs for text in (pair.positive, pair.negative)]
        tokens = sum(len(text) - text.prompt_length for text in self.texts)
        vocabulary = Anatomy.of(self.scorer.model).d_vocab
        if 4 * tokens * vocabulary <= STORED_BYTES:
            self._base.extend(self.scorer.forced(self.texts))

    def __call__(self, plan: SteeringPlan | None) -> tuple[float, float]:
        """Mean KL, nats per token, and the mean margin; KL is inf when logits are not finite."""
        scores, kl = np.zeros(len(self.texts)), []
        for steered, plain in self._passes(plan):
            scores[steered.example] = float(steered.logprobs().double().mean())
            kl.append(kl_divergence(steered.logits, plain.logits).cpu().numpy())
        spent = float(np.concatenate(kl).mean())
        return spent if math.isfinite(spent) else math.inf, float((scores[::2] - scores[1::2]).mean())

    def _passes(self, plan: SteeringPlan | None) -> Iterator[tuple[Forced, Forced]]:
        """Steered and plain, in step; the stored plain ones serve every plan without a gate."""
        if (plan is not None and plan.gated) or not self._base:
            return self.scorer.both(self.texts, plan, None)
        return zip(self.scorer.forced(self.texts, plan), self._base, strict=True)
