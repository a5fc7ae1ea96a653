"""Effect: what a plan does to the margin between wanted and unwanted answers, without any judge model.

    margin = mean log-probability per token of the positive completion - the same of the negative one, nats per token

after the same prompt, or, where the data are two lists of unrelated texts, each after its own. Both completions are
given, so the margin is exact, and what a plan does to it is measured on the same texts. Intervals resample prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.verdict import Effect
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap, Interval, mean_interval, paired_difference


def margins(scorer: Scorer, pairs: Sequence[AnswerPair], plan: SteeringPlan | None = None) -> Float[np.ndarray, "n"]:
    """`[n]` margin of every pair, nats per token. Raises SteeringError when a completion is empty."""
    texts = [text for pair in pairs for text in (pair.positive, pair.negative)]
    empty = sum(len(text) == text.prompt_length for text in texts)
    if empty or not pairs:
        raise SteeringError(f"{empty} of {len(texts)} completions are empty; a margin needs a token on both sides")
    positive, negative = scorer.logprobs(texts, plan).reshape(-1, 2).T
    differences: Float[np.ndarray, n] = positive - negative
    return differences


def prompt_groups(pairs: Sequence[AnswerPair]) -> list[bytes]:
    """`[n]` labels, equal for pairs that share a prompt on any side, directly or through other pairs: what an interval
    over pairs must resample whole."""
    parent: dict[bytes, bytes] = {}

    def root(prompt: bytes) -> bytes:
        while parent.setdefault(prompt, prompt) != prompt:
            prompt = parent[prompt]
        return prompt

    for pair in pairs:
        first, second = map(root, pair.prompts)
        parent[second] = first
    return [root(pair.prompts[0]) for pair in pairs]


@dataclass(frozen=True, eq=False)
class Margins:
    """Margins of one set of pairs; those of the base model are measured once. bootstrap: of all its intervals, which
    resample prompts with all of their pairs."""

    scorer: Scorer
    pairs: Sequence[AnswerPair]
    bootstrap: Bootstrap = BOOTSTRAP
    _base: list[np.ndarray] = field(default_factory=list, repr=False)

    @property
    def base(self) -> Float[np.ndarray, "n"]:
        if not self._base:
            self._base.append(margins(self.scorer, self.pairs))
        return self._base[0]

    @cached_property
    def groups(self) -> list[bytes]:
        """`[n]` which pairs belong together."""
        return prompt_groups(self.pairs)

    def of(self, plan: SteeringPlan) -> Float[np.ndarray, "n"]:
        """`[n]` margins under the plan."""
        return margins(self.scorer, self.pairs, plan)

    def effect(self, steered: Float[np.ndarray, "n"]) -> Effect:
        """The change from the base model."""
        return Effect(
            margin=self.difference(steered, self.base),
            margin_base=float(self.base.mean()),
            margin_steered=float(steered.mean()),
        )

    def difference(self, one: Float[np.ndarray, "n"], other: Float[np.ndarray, "n"]) -> Interval:
        """one - other, pair by pair; both over the first pairs when one was measured on fewer."""
        n = min(len(one), len(other))
        return paired_difference(one[:n], other[:n], self.bootstrap, self.groups[:n])


@dataclass(frozen=True)
class Behaved:
    """Behavioural scores of texts written for the same prompts by the base and by the steered model: `[n]` each."""

    base: Float[np.ndarray, "n"]
    steered: Float[np.ndarray, "n"]

    def into(self, effect: Effect, bootstrap: Bootstrap = BOOTSTRAP) -> Effect:
        """The effect with its behavioural half filled in."""
        return replace(
            effect,
            behaviour=mean_interval(self.steered - self.base, bootstrap),
            behaviour_base=float(self.base.mean()),
            behaviour_steered=float(self.steered.mean()),
        )
