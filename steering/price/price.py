"""The whole price of a plan: KL on its own rollouts, KL and perplexity on neutral text (which has nothing to do with
the behaviour), and simple questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.divergence import kl_divergence
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import BASE_STEERED, STEERED_BASE, Measured, divergences, steered_from_base, summarise
from trimtab.steering.price.result import KL, Price
from trimtab.steering.price.rollouts import roll_out
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap


@dataclass(frozen=True, eq=False)
class PricedOn:
    """prompts: held out, answered by the steered model. neutral: plain texts. capability: questions with a
    right (positive) and a wrong (negative) answer; may be none.
    decoding: of the rollouts."""

    prompts: Sequence[Tokens]
    neutral: Sequence[Tokens]
    capability: Sequence[AnswerPair] = ()
    decoding: Decoding = Decoding()
    bootstrap: Bootstrap = BOOTSTRAP


def price_plan(model: PreTrainedModel, plan: SteeringPlan, on: PricedOn) -> Price:
    """The whole price of a plan at its strength. Raises SteeringError when there are fewer than 2 prompts or texts."""
    return price_with(Scorer(model), plan, on)


def price_with(scorer: Scorer, plan: SteeringPlan, on: PricedOn, written: Sequence[Tokens] | None = None) -> Price:
    """`price_plan` with a shared Scorer. written: the steered model's rollouts on the prompts, when they exist."""
    texts = roll_out(scorer.model, plan, on.prompts, on.decoding) if written is None else written
    rollouts = divergences(scorer, texts, steered_from_base(plan, on.decoding.sampling))
    neutral = neutral_cost(scorer, plan, on.neutral, on.bootstrap)
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


def capability(scorer: Scorer, questions: Sequence[AnswerPair], plan: SteeringPlan | None = None) -> float:
    """Share of questions whose right answer (positive) has the higher mean log-probability per token. A tie counts
    half: a model that has lost everything scores one half, not 0 or 1."""
    if not questions:
        raise SteeringError("capability needs at least one question with a right and a wrong answer")
    texts = [text for pair in questions for text in (pair.positive, pair.negative)]
    right, wrong = scorer.logprobs(texts, plan).reshape(-1, 2).T
    return float(((right > wrong) + 0.5 * (right == wrong)).mean())


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
