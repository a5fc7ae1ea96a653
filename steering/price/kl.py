"""What a plan costs at every token of given texts, and the summary of such costs over texts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.model.divergence import kl_divergence
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.result import KL
from trimtab.steering.running.sampling import Sampling
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap, Interval, ratio_interval

STEERED_BASE = "steered||base"
BASE_STEERED = "base||steered"
STORED_TOKENS = 2000  # values per token that a KL carries for its histogram
AT_ONE = Sampling()


@dataclass(frozen=True)
class Direction:
    """Which plans p and q of KL(p || q) run under (None is the base model), and at which temperature."""

    name: str
    p: SteeringPlan | None
    q: SteeringPlan | None
    sampling: Sampling = Sampling()


def steered_from_base(plan: SteeringPlan, sampling: Sampling = AT_ONE) -> Direction:
    """KL(steered || base): what the budget binds, on text the steered model wrote. sampling: how it was drawn."""
    return Direction(STEERED_BASE, plan, None, sampling)


def base_from_steered(plan: SteeringPlan) -> Direction:
    """KL(base || steered): the damage on text that has nothing to do with the behaviour."""
    return Direction(BASE_STEERED, None, plan)


def divergences(scorer: Scorer, texts: Sequence[Tokens], direction: Direction) -> list[Float[np.ndarray, "n_i"]]:
    """KL at every answer-writing position of every text, in the order of the texts: float64 `[n_i]` each, nats.

    Two forward passes, in step; the logits of one batch are held at a time.
    """
    per_text = [np.zeros(0)] * len(texts)
    for p, q in scorer.both(texts, direction.p, direction.q):
        per_text[p.example] = kl_at(direction.sampling, p.logits, q.logits)
    return per_text


def kl_at(sampling: Sampling, p: Float[Tensor, "n v"], q: Float[Tensor, "n v"]) -> Float[np.ndarray, "n"]:
    """KL(p || q) `[n]`, nats, between distributions at the temperature of a sampling, before its top-k and top-p."""
    return kl_divergence(sampling.tempered(p), sampling.tempered(q)).cpu().numpy()


@dataclass(frozen=True)
class Measured:
    """Which tokens a KL was taken on, and how its interval is made. tokens: "rollouts", "neutral", "forced". sampling:
    how they were drawn, and the temperature of the KL."""

    direction: str
    tokens: str
    bootstrap: Bootstrap = BOOTSTRAP
    sampling: Sampling = Sampling()


def summarise(per_text: Sequence[Float[np.ndarray, "n_i"]], texts: Sequence[Tokens], what: Measured) -> KL:
    """Per-token values of several texts as one KL; texts of one prompt are resampled together. Raises SteeringError
    when there is no interval to give."""
    sums = np.array([values.sum() for values in per_text])
    counts = np.array([len(values) for values in per_text])
    prompts = [text.prompt.ids.tobytes() for text in texts]
    mean = not_negative(ratio_interval(sums, counts, what.bootstrap, prompts))
    pooled = np.concatenate(per_text)
    evenly = np.linspace(0, len(pooled) - 1, min(len(pooled), STORED_TOKENS)).astype(int)
    return KL(
        direction=what.direction,
        tokens=what.tokens,
        mean=mean,
        p95=float(np.quantile(pooled, 0.95)),
        max=float(pooled.max()),
        n_tokens=len(pooled),
        prompts_digest=texts_digest(texts),
        per_token=tuple(float(value) for value in pooled[evenly]),
        sampling=what.sampling,
    )


def not_negative(interval: Interval) -> Interval:
    """The interval of a mean that cannot be below 0, such as a KL: its lower end is raised to 0."""
    return replace(interval, low=max(interval.low, 0.0))


def texts_digest(texts: Sequence[Tokens]) -> str:
    """sha256 over the token ids of the texts' prompts, in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(np.asarray(text.ids[: text.prompt_length], dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()
