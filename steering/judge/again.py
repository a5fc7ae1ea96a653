"""A judged plan measured once more: effect and price on the texts of its verdict, without search, dose or placebos."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from trimtab.steering.judge.bench import priced_on, report_pairs
from trimtab.steering.judge.effect import Margins
from trimtab.steering.judge.judge_input import Texts
from trimtab.steering.judge.settings import JudgeSettings
from trimtab.steering.judge.verdict import Effect
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.price import price_with
from trimtab.steering.price.result import Price
from trimtab.steering.price.rollouts import roll_out_together
from trimtab.steering.running.scorer import Scorer


@dataclass(frozen=True)
class Remeasured:
    """What a plan does to the margin of held-out pairs, and what it costs, at the strength that it has."""

    effect: Effect
    price: Price


def measure_again(model: PreTrainedModel, plan: SteeringPlan, texts: Texts, settings: JudgeSettings) -> Remeasured:
    """Effect and price of a dosed plan. texts, settings: those of its verdict, so that numbers can be compared.

    Raises SteeringError when the plan does not fit the model, or texts are too few for an interval.
    """
    scorer, on = Scorer(model), priced_on(texts, settings)
    margins = Margins(scorer, report_pairs(texts, settings), settings.bootstrap)
    written = roll_out_together(scorer, [plan], on.prompts, on.decoding)[0]
    return Remeasured(margins.effect(margins.of(plan)), price_with(scorer, plan, on, written))
