"""From a ranking to steering: plans that scale or shift the z of the top heads, compared on the task with the same
plans for random heads, all dosed to the same KL."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.ablation.runs import Ablator
from trimtab.steering.ablation.sets import matched_sets
from trimtab.steering.causal.patching import activations
from trimtab.steering.causal.question import Question, prompts_of, question_batches
from trimtab.steering.causal.units import Unit
from trimtab.steering.errors import BadRanking
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.scale import Scale
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.price.dose import Dosing, dose_on
from trimtab.steering.price.result import Dose
from trimtab.steering.statistics import Interval, mean_interval, paired_difference, rank_p_value

How = Literal["scale", "shift"]


def head_plan(
    anatomy: Anatomy,
    heads: Sequence[Site],
    how: How = "scale",
    questions: Sequence[Question] = (),
    span: Span = Span("all"),  # noqa: B008 (frozen)
) -> SteeringPlan:
    """scale: every head's z twice as large at strength 1. shift: the mean difference of z at the last prompt token
    between clean and corrupted questions, added. Raises BadRanking for what is not a head, BadQuestion without
    corrupted prompts."""
    for site in heads:
        if site.head is None:
            raise BadRanking(f"{site} is not a head; a head plan acts on z.block.head")
    moves = {site: Scale(2.0) for site in heads} if how == "scale" else _shifts(anatomy, heads, questions)
    return SteeringPlan(tuple(Intervention(site, moves[site], span) for site in heads), anatomy.fingerprint)


def _shifts(anatomy: Anatomy, heads: Sequence[Site], questions: Sequence[Question]) -> dict[Site, Add]:
    sites = list(dict.fromkeys(site.whole for site in heads))
    total = {site: torch.zeros(anatomy.width(site)) for site in sites}
    device = anatomy.device
    for batch in question_batches(questions, device):
        rows = torch.arange(batch.rows, device=device)
        sides = [activations(anatomy, batch, sites, side)[0] for side in ("clean", "corrupted")]
        for site in sites:
            last = [h[site][rows, batch.last].float().cpu() for h in sides]
            total[site] += (last[0] - last[1]).sum(0)
    return {site: Add(_of_head(anatomy, total[site.whole] / len(questions), site)) for site in heads}


def _of_head(anatomy: Anatomy, z: Tensor, site: Site) -> Tensor:
    start = (site.head or 0) * anatomy.d_head
    return z[start : start + anatomy.d_head].clone()


@dataclass(frozen=True)
class HeadsGain:
    """The gain of top heads beside that of random heads, at one price (KL). gain: nats of the metric gained by the
    dosed plan. random: mean gain of each random plan that could be dosed. over_random: gain minus the random plans'
    mean, paired by question. p: from the rank of the gain among the random ones. unreached: number of random plans that
    could not be dosed to the price and are left out."""

    dose: Dose
    gain: Interval
    random: tuple[float, ...]
    over_random: Interval | None
    p: float | None
    unreached: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, nested like the fields."""
        return asdict(self)


def judge_heads(
    calibration: Calibration,
    questions: Sequence[Question],
    heads: Sequence[Unit],
    universe: Sequence[Unit],
    budget: float,
    random: int = 19,
) -> tuple[SteeringPlan, HeadsGain]:
    """The scale plan of these `heads`, dosed to `budget` nats on the calibration's prompts, with its gain on the
    questions and the gain of layer-matched random heads dosed to the same KL."""
    anatomy = Anatomy.of(calibration.scorer.model)
    base = plan_metric(anatomy, questions, None)
    plan, dose = dose_on(calibration, head_plan(anatomy, _sites(heads)), budget, Dosing())
    gain = plan_metric(anatomy, questions, plan) - base
    beside, unreached = [], 0
    for others in matched_sets(universe, heads, random):
        how = Dosing(guess=dose.strength or 1)
        placebo, placebo_dose = dose_on(calibration, head_plan(anatomy, _sites(others)), budget, how)
        if placebo_dose.reachable:
            beside.append(plan_metric(anatomy, questions, placebo) - base)
        unreached += not placebo_dose.reachable
    each, prompts = np.array(beside), prompts_of(questions)
    return plan, HeadsGain(
        dose=dose,
        gain=mean_interval(gain, clusters=prompts),
        random=tuple(float(x.mean()) for x in beside),
        over_random=paired_difference(gain, each.mean(0), clusters=prompts) if len(each) else None,
        p=rank_p_value(float(gain.mean()), each.mean(1).tolist()) if len(each) else None,
        unreached=unreached,
    )


def plan_metric(anatomy: Anatomy, questions: Sequence[Question], plan: SteeringPlan | None) -> np.ndarray:
    """`[questions]` metric of the model under a plan; spans see each question's true prompt length."""
    if plan is None:
        return Ablator(anatomy).metrics(questions, [[]])[0]
    metrics = np.empty(len(questions))
    for batch in question_batches(questions, anatomy.device):
        lengths = [questions[i].clean.prompt_length for i in batch.numbers]
        with torch.no_grad(), plan.on(anatomy.model, prompt_lengths=lengths):
            logits = batch.logits(anatomy.model)
        metrics[list(batch.numbers)] = batch.metric(logits).double().cpu().numpy()
    return metrics


def _sites(units: Sequence[Unit]) -> list[Site]:
    return [Site.parse(unit.name) for unit in units]
