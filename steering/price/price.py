"""The whole price of a plan: KL on its own rollouts, KL and perplexity on neutral text, and simple questions."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import STEERED_BASE, Measured, divergences, steered_from_base, summarise
from trimtab.steering.price.neutral import neutral_cost
from trimtab.steering.price.result import Price
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
