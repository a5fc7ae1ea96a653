"""Selectivity: the effect of a plan on prompts where it is wanted, and its cost where it is not.

Every contender (a plan, with or without a condition) generates its own answers to held-out prompts; every reported
number has an interval over prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trimtab.steering.conditions.prompts import Labelled
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, not_negative, steered_from_base
from trimtab.steering.price.rollouts import mean_divergence, roll_out
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding
from trimtab.steering.statistics import Interval, mean_interval, ratio_interval

Score = Callable[[Tokens], float]
TOUCHED = 1e-6  # nats: above the rounding of float32 logits, far below what any steering spends


@dataclass(frozen=True)
class Outcome:
    """Results of one contender on the wanted or on the unwanted prompts.

    kl: KL(steered || base), nats per generated token. effect: change of the behavioural score from the base model's
    answers. touched: share of prompts with a KL above TOUCHED at some token. mean_score: of its answers.
    """

    kl: Interval
    effect: Interval
    touched: float
    mean_score: float


@dataclass(frozen=True)
class Selective:
    """A contender on both sides. mean_kl: nats per generated token over the answers to all prompts, the mean that a
    budget binds (`Calibration.kl`) and at which contenders are compared."""

    name: str
    wanted: Outcome
    unwanted: Outcome
    mean_kl: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Arena:
    """scorer; prompts: held out; decoding of the answers; score: of one written text, higher is more behaviour."""

    scorer: Scorer
    prompts: Labelled
    decoding: Decoding
    score: Score

    def base_scores(self) -> np.ndarray:
        """`[n]`, of the unsteered answers."""
        return self._scores(roll_out(self.scorer.model, None, self.prompts.prompts, self.decoding))

    def kl(self, plan: SteeringPlan) -> float:
        """Nats per generated token, over all answers: what `Calibration.kl` measures and `dose` binds."""
        return mean_divergence(self._spent(plan)[1])

    def run(self, name: str, plan: SteeringPlan, base: np.ndarray) -> Selective:
        """One contender on both sides."""
        texts, spent = self._spent(plan)
        scores, wanted = self._scores(texts), self.prompts.wanted
        inside, outside = (
            self._outcome(np.flatnonzero(label), spent, scores - base, scores) for label in (wanted, ~wanted)
        )
        return Selective(name, inside, outside, mean_divergence(spent))

    def _spent(self, plan: SteeringPlan) -> tuple[list[Tokens], list[np.ndarray]]:
        texts = roll_out(self.scorer.model, plan, self.prompts.prompts, self.decoding)
        return texts, divergences(self.scorer, texts, steered_from_base(plan, self.decoding.sampling))

    def _scores(self, texts: Sequence[Tokens]) -> np.ndarray:
        return np.array([self.score(text) for text in texts])

    def _outcome(
        self, numbers: np.ndarray, spent: Sequence[np.ndarray], change: np.ndarray, scores: np.ndarray
    ) -> Outcome:
        """One side. numbers: of its prompts. The rest are results over all prompts, `[n]` each."""
        mine = [spent[k] for k in numbers]
        prompts = [self.prompts.prompts[k].ids.tobytes() for k in numbers]
        sums, counts = np.array([v.sum() for v in mine]), np.array([len(v) for v in mine])
        return Outcome(
            kl=not_negative(ratio_interval(sums, counts, clusters=prompts)),
            effect=mean_interval(change[numbers], clusters=prompts),
            touched=float(np.mean([bool((values > TOUCHED).any()) for values in mine])),
            mean_score=float(scores[numbers].mean()),
        )
