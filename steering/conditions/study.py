"""Study of a condition: compares conditional plans with the unconditional plan, at equal mean KL on validation prompts.

A condition is useful when it keeps the effect on wanted prompts and costs less on others. So it is compared with the
plan as published, and with the plan at the lower strength that has the same mean KL as the conditional plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from trimtab.steering.conditions.controller import (
    START,
    ControllerFit,
    ControllerSettings,
    Taught,
    train_controller,
)
from trimtab.steering.conditions.prompts import Labelled, Splits
from trimtab.steering.conditions.selectivity import Arena, Score, Selective
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.price.dose import Dosing, dose_on
from trimtab.steering.price.result import Dose
from trimtab.steering.running.progress import Progress
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding

FIXED, FIXED_SAME, GATED, CONTROLLED = "fixed", "fixed, same mean KL", "gated", "controlled"
STAGE = "selectivity"
TOLERANCE = 0.15  # relative error at which two prices count as equal
MATCHING_SEED, REPORTING_SEED = 500, 1000  # of the answers on which prices are matched, and of those reported


@dataclass(frozen=True, eq=False)
class Study:
    """What contenders are made from and compared on.

    plan: as published. patch: the interventions that a controller weighs. splits: marked prompts. sites: where the
    prompt is read. score: behaviour of one written text. decoding: of the answers. prompts: at most this many of each
    side, wanted and unwanted.
    """

    model: PreTrainedModel
    plan: SteeringPlan
    patch: SteeringPlan
    splits: Splits
    sites: Sequence[Site]
    score: Score
    decoding: Decoding
    prompts: int

    def arena(self, prompts: Labelled, seed: int) -> Arena:
        """Contenders answer these prompts."""
        return Arena(Scorer(self.model), prompts, replace(self.decoding, seed=seed), self.score)


@dataclass(frozen=True)
class Comparison:
    """contenders: results on the report prompts, the published conditional plan last. target, achieved: mean KL of the
    conditional plan and of the plan that was matched to it, nats per generated token over all answers. reachable:
    whether some strength costs the target."""

    contenders: Sequence[Selective]
    target: float
    achieved: float
    reachable: bool


def compare(study: Study, conditional: Mapping[str, SteeringPlan], report: Progress) -> Comparison:
    """The plan as published, the same at the mean price of the last conditional plan, and the conditional plans.

    Prices are matched on the validation prompts; results are of the report prompts.
    """
    matching = study.arena(first_of_each_side(study.splits.validation, study.prompts), MATCHING_SEED)
    mean = matching.kl(list(conditional.values())[-1])
    weaker, dose = dosed(matching, study.plan, matching.prompts.prompts, mean)
    arena = study.arena(first_of_each_side(study.splits.report, study.prompts), REPORTING_SEED)
    base = arena.base_scores()
    plans = {FIXED: study.plan, FIXED_SAME: weaker, **conditional}
    contenders = []
    for number, (name, plan) in enumerate(plans.items()):
        report(STAGE, number, len(plans))
        contenders.append(arena.run(name, plan, base))
    report(STAGE, len(plans), len(plans))
    achieved, reachable = (0.0, mean == 0) if dose is None else (dose.achieved, dose.reachable)
    return Comparison(contenders, mean, achieved, reachable)


@dataclass(frozen=True, eq=False)
class DosedController:
    """plan: the trained controller at its dose. budget: KL of the published plan on wanted prompts, nats per generated
    token. dose: None when the budget is 0."""

    plan: SteeringPlan
    fit: ControllerFit
    budget: float
    dose: Dose | None


def dosed_controller(study: Study, settings: ControllerSettings, report: Progress) -> DosedController:
    """Train a controller and dose it to what the plan costs on wanted prompts; `settings.budget` is replaced by that.

    An untrained controller gives every intervention the factor START, so the patch is scaled to cost the budget at that
    factor: training begins at the right KL divergence.
    """
    wanted_prompts = study.splits.validation.side(True)[: study.prompts]
    matching = study.arena(study.splits.validation, MATCHING_SEED)
    budget = _calibration(matching, wanted_prompts).kl(study.plan)
    patch = dosed(matching, study.patch, wanted_prompts, budget)[0].scaled(1 / START)
    taught, settings = Taught(patch, study.plan), replace(settings, budget=budget)
    fit = train_controller(study.model, taught, study.splits, study.sites, settings, report)
    plan, dose = dosed(matching, fit.plan, wanted_prompts, budget)
    return DosedController(plan, fit, budget, dose)


def dosed(
    arena: Arena, plan: SteeringPlan, prompts: Sequence[Tokens], target: float
) -> tuple[SteeringPlan, Dose | None]:
    """The plan at the strength whose KL is `target`, or as near below as can be reached, and the dose. A target of 0 (a
    condition that never opens) gives the plan at strength 0 and no dose."""
    if target <= 0:
        return plan.scaled(0.0), None
    return dose_on(_calibration(arena, prompts), plan, target, Dosing(tolerance=TOLERANCE))


def _calibration(arena: Arena, prompts: Sequence[Tokens]) -> Calibration:
    return Calibration(arena.scorer, prompts, arena.decoding)


def first_of_each_side(labelled: Labelled, count: int) -> Labelled:
    """The first prompts that want the plan and the first that do not, `count` of each, in their order."""
    sides = [np.flatnonzero(labelled.wanted == side)[:count] for side in (True, False)]
    numbers = np.sort(np.concatenate(sides))
    return Labelled([labelled.prompts[number] for number in numbers], labelled.wanted[numbers])
