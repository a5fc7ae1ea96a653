"""KL between next-token distributions, from raw logits: nats per token, no epsilon, no probabilities kept.

    KL(p || q) = sum_i p_i (z_i - w_i) - lse(z) + lse(w)          for logits z of p and w of q

Exponentials are taken in the logits' own precision after the row's maximum is subtracted, sums and logarithms in
float64: equal logits give exactly 0, and float32 logits an absolute error below 1e-7. The epsilon inside the log that
public implementations add (1e-8, 1e-6) would bias small budgets.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.result import KL
from trimtab.steering.running.sampling import Sampling
from trimtab.steering.running.scorer import Scorer, gated
from trimtab.steering.running.writing import Decoding, generate
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap, Interval, ratio_interval

STEERED_BASE = "steered||base"
BASE_STEERED = "base||steered"
KEPT_TOKENS = 2000
AT_ONE = Sampling()
_ROWS = 128  # rows of [n v] worked on at once: temporaries stay small for large vocabularies


def kl_divergence(p: Float[Tensor, "n v"], q: Float[Tensor, "n v"]) -> Float[Tensor, "n"]:
    """KL(p || q) per row from raw logits, float64. Infinite where q forbids what p allows; nan where logits are nan."""
    parts = [_kl_rows(p[k : k + _ROWS], q[k : k + _ROWS]) for k in range(0, p.shape[0], _ROWS)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _kl_rows(p: Tensor, q: Tensor) -> Tensor:
    p, q = _shifted(p), _shifted(q)
    weight = p.exp()
    total = weight.sum(-1, dtype=torch.float64)
    difference = torch.where(weight == 0, torch.zeros_like(p), p - q)
    crossed = weight.mul_(difference).sum(-1, dtype=torch.float64) / total
    return crossed - total.log() + q.exp().sum(-1, dtype=torch.float64).log()


def _shifted(z: Tensor) -> Tensor:
    """Logits with a maximum of 0 per row; half precisions are widened first."""
    wide = z if z.dtype == torch.float64 else z.float()
    return wide - wide.amax(-1, keepdim=True)


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


def divergences(scorer: Scorer, texts: Sequence[Tokens], direction: Direction) -> list[np.ndarray]:
    """KL at every answer-writing position of every text, in the order of the texts: float64 `[n_i]` each.

    Two forward passes, in step; the logits of one batch are held at a time.
    """
    found = [np.zeros(0)] * len(texts)
    for p, q in scorer.both(texts, direction.p, direction.q):
        found[p.example] = kl_at(direction.sampling, p.logits, q.logits)
    return found


def kl_at(sampling: Sampling, p: Float[Tensor, "n v"], q: Float[Tensor, "n v"]) -> np.ndarray:
    """KL(p || q) `[n]` between distributions at the temperature of a sampling, before its top-k and top-p."""
    return kl_divergence(sampling.tempered(p), sampling.tempered(q)).cpu().numpy()


@dataclass(frozen=True)
class Measured:
    """Which tokens a KL was taken on, and how its interval is made. tokens: "rollouts", "neutral", "forced". sampling:
    how they were drawn, and the temperature of the KL."""

    direction: str
    tokens: str
    bootstrap: Bootstrap = BOOTSTRAP
    sampling: Sampling = Sampling()


def summarise(per_text: Sequence[np.ndarray], texts: Sequence[Tokens], what: Measured) -> KL:
    """Per-token values of several texts as one KL; texts of one prompt are resampled together. Raises SteeringError
    when there is no interval to give."""
    sums = np.array([values.sum() for values in per_text])
    counts = np.array([len(values) for values in per_text])
    prompts = [text.prompt.ids.tobytes() for text in texts]
    mean = not_negative(ratio_interval(sums, counts, what.bootstrap, prompts))
    pooled = np.concatenate(per_text)
    kept = pooled[np.linspace(0, len(pooled) - 1, min(len(pooled), KEPT_TOKENS)).astype(int)]
    return KL(
        direction=what.direction,
        tokens=what.tokens,
        mean=mean,
        p95=float(np.quantile(pooled, 0.95)),
        max=float(pooled.max()),
        n_tokens=len(pooled),
        prompts_digest=texts_digest(texts),
        per_token=tuple(float(value) for value in kept),
        sampling=what.sampling,
    )


def not_negative(interval: Interval) -> Interval:
    """The interval of a mean that cannot be below 0, such as a KL: an end below 0 says no more than 0 does."""
    return replace(interval, low=max(interval.low, 0.0))


def texts_digest(texts: Sequence[Tokens]) -> str:
    """sha256 over the token ids of the texts' prompts, in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(np.asarray(text.ids[: text.prompt_length], dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()


def roll_out(
    model: PreTrainedModel, plan: SteeringPlan | None, prompts: Sequence[Tokens], decoding: Decoding
) -> list[Tokens]:
    """What the model writes under the plan, as texts to score.

    An answer that stopped by itself gets one token more: stopping was a choice of the next token too, and a plan that
    only makes answers end early would cost nothing without it. (The KL there does not depend on which token it is.)
    """
    return finished(model, prompts, generate(model, prompts, plan, decoding), decoding)


def finished(
    model: PreTrainedModel, prompts: Sequence[Tokens], written: Sequence[list[int]], decoding: Decoding
) -> list[Tokens]:
    """Prompts with what was written, and the end where the model chose to end."""
    end = _end_token(model)
    stopped = [ids if len(ids) == decoding.max_new_tokens else [*ids, end] for ids in written]
    return [prompt.followed_by(ids) for prompt, ids in zip(prompts, stopped, strict=True)]


def rollout_divergences(
    scorer: Scorer, plan: SteeringPlan, prompts: Sequence[Tokens], decoding: Decoding
) -> list[np.ndarray]:
    """KL(steered || base) at every token that the steered model wrote, `[n_i]` per prompt."""
    texts = roll_out(scorer.model, plan, prompts, decoding)
    return divergences(scorer, texts, steered_from_base(plan, decoding.sampling))


def rollout_kl(
    model: PreTrainedModel,
    plan: SteeringPlan,
    prompts: Sequence[Tokens],
    decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
    bootstrap: Bootstrap = BOOTSTRAP,
) -> KL:
    """KL(steered || base), nats per generated token, on rollouts of the steered model: the number a budget binds."""
    per_text = rollout_divergences(Scorer(model), plan, prompts, decoding)
    return summarise(per_text, prompts, Measured(STEERED_BASE, "rollouts", bootstrap, decoding.sampling))


def neutral_kl(
    model: PreTrainedModel, plan: SteeringPlan, texts: Sequence[Tokens], bootstrap: Bootstrap = BOOTSTRAP
) -> KL:
    """KL(base || steered), nats per token, teacher-forced on plain text as `for_plan` cuts it."""
    per_text = divergences(Scorer(model), for_plan(plan, texts), base_from_steered(plan))
    return summarise(per_text, texts, Measured(BASE_STEERED, neutral_name(plan), bootstrap))


def for_plan(plan: SteeringPlan, texts: Sequence[Tokens]) -> list[Tokens]:
    """Plain texts as prompts with completions, on which the plan does what it does in use.

    A plan that acts on prompts alone, or whose gate decides on the prompt, gets the first half as the prompt: with a
    prompt of one token it would do next to nothing, and seem to cost next to nothing. For all other plans the first
    token is the prompt, so that all others are scored, and steered by spans over answers. Raises SteeringError for a
    text of one token.
    """
    return [as_answer(text, len(text) // 2 if tells_prompts(plan) else 1) for text in texts]


def tells_prompts(plan: SteeringPlan) -> bool:
    """Whether what a plan does hangs on how much of a text is prompt."""
    return gated(plan) or any(step.span.ends_with_prompt for step in plan.interventions)


def neutral_name(plan: SteeringPlan) -> str:
    """What `KL.tokens` says of plain texts: which of their tokens were scored."""
    return "neutral, second halves" if tells_prompts(plan) else "neutral"


def as_answer(text: Tokens, prompt: int = 1) -> Tokens:
    """The text with its first `prompt` tokens as the prompt. Raises SteeringError for a text of one token."""
    if len(text) < 2:
        raise SteeringError("a neutral text of one token predicts nothing; give whole sentences")
    return replace(text, prompt_length=prompt)


def _end_token(model: PreTrainedModel) -> int:
    end = getattr(model.generation_config, "eos_token_id", None)
    return 0 if end is None else int(end[0] if isinstance(end, list) else end)
