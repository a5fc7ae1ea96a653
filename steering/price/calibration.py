"""Calibration: where the KL of a plan is measured while its strength is searched for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.closed_form import fisher_strength, fisher_variances
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.price.rollouts import mean_divergence, roll_out, rolled_divergences
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding

ROLLOUTS = "rollouts"
FORCED = "forced"


@dataclass
class Calibration:
    """Where a KL is measured: mean KL(steered || base), nats per token, over `prompts`, at the decoding's temperature.

    on: "rollouts", text that the steered model writes after each prompt (what the budget binds), or "forced", the
    completions that the prompts carry (cheaper, for searches). passes: forward passes over the prompts so far, where
    one generated token counts as one.
    """

    scorer: Scorer
    prompts: Sequence[Tokens]
    decoding: Decoding = Decoding()
    on: str = ROLLOUTS
    passes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.on not in (ROLLOUTS, FORCED):
            raise SteeringError(f"KL can be calibrated on '{ROLLOUTS}' or '{FORCED}', not on '{self.on}'")
        if self.on == FORCED and not any(len(text) > text.prompt_length for text in self.prompts):
            raise SteeringError("KL on forced text needs prompts with completions; these have none")

    @cached_property
    def base_texts(self) -> list[Tokens]:
        """Text of the unsteered model after each prompt (or the given completions): where slopes are taken."""
        if self.on == FORCED:
            return list(self.prompts)
        self.passes += self.decoding.max_new_tokens
        return roll_out(self.scorer.model, None, self.prompts, self.decoding)

    def kl(self, plan: SteeringPlan) -> float:
        """Mean nats per token; inf when the steered logits are not finite."""
        return self.kls([plan])[0]

    @property
    def cost(self) -> int:
        """Passes of one verification."""
        return 2 if self.on == FORCED else self.decoding.max_new_tokens + 1

    def kls(self, plans: Sequence[SteeringPlan]) -> list[float]:
        """The same for several plans, which write side by side. Strength 0 is the identity to the bit and costs 0."""
        moving = [plan for plan in plans if any(step.strength for step in plan.interventions)]
        spent = iter(self._measured(moving) if moving else [])
        return [next(spent) if plan in moving else 0.0 for plan in plans]

    def _measured(self, plans: Sequence[SteeringPlan]) -> list[float]:
        self.passes += self.cost * len(plans)
        if self.on == FORCED:
            sampling = self.decoding.sampling
            per_plan = [divergences(self.scorer, self.prompts, steered_from_base(plan, sampling)) for plan in plans]
        else:
            per_plan = rolled_divergences(self.scorer, plans, self.prompts, self.decoding)
        return [mean_divergence(per_text) for per_text in per_plan]

    def guess(self, plan: SteeringPlan, budget: float, quantile: float | None = None) -> float:
        """Strength of the Fisher closed form on the base texts; inf when the plan moves no logit."""
        variances, passes = fisher_variances(self.scorer, plan, self.base_texts)
        self.passes += passes
        return fisher_strength(variances, budget, quantile)


def check_budget(target: float) -> None:
    """Raises SteeringError for a budget that is not a number above 0."""
    if not (math.isfinite(target) and target > 0):
        raise SteeringError(f"a KL budget of {target} nats cannot be dosed to; give a number above 0")
