"""What a plan breaks: perplexity and KL on text that has nothing to do with the behaviour, and simple questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import (
    BASE_STEERED,
    STEERED_BASE,
    Measured,
    divergences,
    for_plan,
    kl_divergence,
    neutral_name,
    roll_out,
    steered_from_base,
    summarise,
)
from trimtab.steering.price.result import KL, Price
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap


@dataclass(frozen=True, eq=False)
class CapabilityItem:
    """One question with a right and a wrong answer: the same prompt, two completions."""

    correct: Tokens
    incorrect: Tokens


@dataclass(frozen=True, eq=False)
class PricedOn:
    """prompts: held out, answered by the steered model. neutral: plain texts. capability: A/B items (may be empty).
    decoding: of the rollouts."""

    prompts: Sequence[Tokens]
    neutral: Sequence[Tokens]
    capability: Sequence[CapabilityItem] = ()
    decoding: Decoding = Decoding()
    bootstrap: Bootstrap = BOOTSTRAP


@dataclass(frozen=True)
class Neutral:
    """On the same plain texts: KL(base || steered), and perplexity of both (exp of the mean nats per token)."""

    damage: KL
    perplexity_base: float
    perplexity_steered: float


def price_plan(model: PreTrainedModel, plan: SteeringPlan, on: PricedOn) -> Price:
    """The whole price of a plan at its strength. Raises SteeringError when there are fewer than 2 prompts or texts."""
    return price_with(Scorer(model), plan, on)


def price_with(scorer: Scorer, plan: SteeringPlan, on: PricedOn, written: Sequence[Tokens] | None = None) -> Price:
    """`price_plan` with a shared Scorer. written: the steered model's rollouts on the prompts, when they exist."""
    texts = roll_out(scorer.model, plan, on.prompts, on.decoding) if written is None else written
    rollouts = divergences(scorer, texts, steered_from_base(plan, on.decoding.sampling))
    neutral = neutral_damage(scorer, plan, on.neutral, on.bootstrap)
    base = capability(scorer, on.capability) if on.capability else None
    steered = capability(scorer, on.capability, plan) if on.capability else None
    return Price(
        budget=summarise(rollouts, on.prompts, Measured(STEERED_BASE, "rollouts", on.bootstrap, on.decoding.sampling)),
        damage=neutral.damage,
        perplexity_base=neutral.perplexity_base,
        perplexity_steered=neutral.perplexity_steered,
        capability_base=base,
        capability_steered=steered,
    )


def neutral_damage(
    scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], bootstrap: Bootstrap = BOOTSTRAP
) -> Neutral:
    """KL and perplexity on plain texts as `for_plan` cuts them, from one pass with and one without the plan."""
    per_text = [np.zeros(0)] * len(texts)
    surprise, count = np.zeros(2), 0
    for base, steered in scorer.both(for_plan(plan, texts), None, plan):
        per_text[base.example] = kl_divergence(base.logits, steered.logits).cpu().numpy()
        surprise -= [float(pass_.logprobs().double().sum()) for pass_ in (base, steered)]
        count += len(base.targets)
    damage = summarise(per_text, texts, Measured(BASE_STEERED, neutral_name(plan), bootstrap))
    return Neutral(damage, *(_exponential(total / count) for total in surprise))


def capability(scorer: Scorer, items: Sequence[CapabilityItem], plan: SteeringPlan | None = None) -> float:
    """Share of items whose right answer has the higher mean log-probability per token. A tie counts half: a model
    that has lost everything scores one half, not 0 or 1."""
    if not items:
        raise SteeringError("capability needs at least one item with a right and a wrong answer")
    texts = [text for item in items for text in (item.correct, item.incorrect)]
    right, wrong = scorer.logprobs(texts, plan).reshape(-1, 2).T
    return float(((right > wrong) + 0.5 * (right == wrong)).mean())


def _exponential(nats: float) -> float:
    """exp, inf instead of an overflow."""
    return math.exp(nats) if nats < 700 else math.inf
