"""Neutral text: what a plan does to text that has nothing to do with the behaviour, as KL and as perplexity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.divergence import kl_divergence
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import BASE_STEERED, Measured, summarise
from trimtab.steering.price.result import KL
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap


@dataclass(frozen=True)
class NeutralCost:
    """On the same plain texts: KL(base || steered), and perplexity of both (exp of the mean nats per token)."""

    damage: KL
    perplexity_base: float
    perplexity_steered: float


def neutral_cost(
    scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], bootstrap: Bootstrap = BOOTSTRAP
) -> NeutralCost:
    """KL and perplexity on plain texts as `cut_for` cuts them, from one pass with and one without the plan."""
    per_text = [np.zeros(0)] * len(texts)
    surprise, count = np.zeros(2), 0
    for base, steered in scorer.both(cut_for(plan, texts), None, plan):
        per_text[base.example] = kl_divergence(base.logits, steered.logits).cpu().numpy()
        surprise -= [float(forced.logprobs().double().sum()) for forced in (base, steered)]
        count += len(base.targets)
    damage = summarise(per_text, texts, Measured(BASE_STEERED, scored_tokens(plan), bootstrap))
    return NeutralCost(damage, *(_exponential(total / count) for total in surprise))


def cut_for(plan: SteeringPlan, texts: Sequence[Tokens]) -> list[Tokens]:
    """Plain texts as prompts with completions, cut so that the plan does on them what it does in use.

    A plan that acts on prompts alone, or whose gate decides on the prompt, gets the first half as the prompt: with a
    prompt of one token it would do next to nothing, and seem to cost next to nothing. For all other plans the first
    token is the prompt, so that all others are scored, and steered by spans over answers. Raises SteeringError for a
    text of one token.
    """
    return [_as_answer(text, len(text) // 2 if depends_on_prompt(plan) else 1) for text in texts]


def depends_on_prompt(plan: SteeringPlan) -> bool:
    """Whether what a plan does depends on how much of a text is prompt: it has a gate, or a span that ends with it."""
    return plan.gated or any(step.span.ends_with_prompt for step in plan.interventions)


def scored_tokens(plan: SteeringPlan) -> str:
    """What `KL.tokens` says of plain texts: which of their tokens were scored."""
    return "neutral, second halves" if depends_on_prompt(plan) else "neutral"


def _as_answer(text: Tokens, prompt: int) -> Tokens:
    """The text with its first `prompt` tokens as the prompt."""
    if len(text) < 2:
        raise SteeringError("a neutral text of one token predicts nothing; give whole sentences")
    return replace(text, prompt_length=prompt)


def _exponential(nats: float) -> float:
    """exp, inf instead of an overflow."""
    return math.exp(nats) if nats < 700 else math.inf
