"""judge: the best of the candidate plans at one price, beside its placebos at the same price.

Chosen on the selection split, reported on the other. The search is part of the null: each placebo is a set of as many
candidates, from which the same search chooses, so what choosing gains by chance the placebos gain too. Every competitor
is dosed to the same KL on the same prompts by the same `dose`, and every claim of the verdict is an interval's.
"""

from dataclasses import replace

from trimtab.steering.fitters._leading import leads_of, warning_of
from trimtab.steering.judge.bench import Bench
from trimtab.steering.judge.contenders import flip_of, judged_placebos, judged_plan, judged_prompt, judged_rivals
from trimtab.steering.judge.judge_input import JudgeInput
from trimtab.steering.judge.nulls import SharedNulls
from trimtab.steering.judge.placebo import placebos
from trimtab.steering.judge.supplements import ablation_of, answering_of, curve_of, generations_of
from trimtab.steering.judge.token_bias import judged_bias
from trimtab.steering.judge.verdict import Verdict
from trimtab.steering.judge.wording import beats_random, sentence
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.progress import Progress, silent


def judge(judged: JudgeInput, progress: Progress = silent) -> Verdict:
    """The verdict on the best candidate.

    Takes minutes on two cores; `judged.settings` trades time for precision. Raises SteeringError for texts that cannot
    give an interval. The plan at its dose is `dosed_plan(judged, verdict)`.
    """
    bench, how = Bench(judged), judged.settings
    shared = SharedNulls(judged.candidates, judged.nulls)
    drawn = placebos(shared.subjects, judged.contrast, judged.refit, shared.left(how.placebos), how.seed)
    choice, *choices = bench.search([judged.candidates, *(one.candidates for one in drawn)], progress)
    progress("dose", 0, 1)
    dosed, dose = bench.dosed(choice.plan, choice.strength or None)
    progress("dose", 1, 1)
    generations = generations_of(bench, dosed, progress)
    judged.tell(generations)
    plan, price = judged_plan(bench, dosed, dose, progress)
    searched = [*zip(drawn, choices, strict=True), *flip_of(bench, choice)]
    nulls = shared.completed(judged_placebos(bench, searched, (choice, dose), progress))
    rivals = [*judged_rivals(bench, progress), *judged_bias(bench, progress), *judged_prompt(bench, progress)]
    others = [*rivals, *nulls]
    verdict = Verdict(
        plan=judged.name,
        site=choice.name,
        fitter=judged.fitter_name,
        beats_random=False,
        sentence="",
        dose=dose,
        price=price,
        contenders=(plan.contender, *(bench.against(plan, other) for other in others)),
        search=choice.points,
        curve=curve_of(bench, [plan, *others], progress),
        ablation=ablation_of(bench, choice.plan, progress),
        generations=generations,
        splits=_splits(bench),
        behaviour_metric=None if judged.behaviour is None else judged.behaviour.metric,
        answering=answering_of(bench, dosed, progress),
        paired=all(pair.paired for pair in bench.report.pairs),
        warnings=_warnings(judged, choice.plan),
    )
    return _worded(verdict)


def dosed_plan(judged: JudgeInput, verdict: Verdict) -> SteeringPlan:
    """The judged plan at the strength that was found: what to publish."""
    return judged.candidates[verdict.site].scaled(verdict.dose.strength)


def _worded(verdict: Verdict) -> Verdict:
    """With its claim and its sentence, which are read off the numbers."""
    verdict = replace(verdict, beats_random=beats_random(verdict.contenders))
    return replace(verdict, sentence=sentence(verdict))


def _warnings(judged: JudgeInput, candidate: SteeringPlan) -> tuple[str, ...]:
    """That the judged direction is little more than one massive coordinate, where it is."""
    leads = leads_of(candidate.interventions, judged.contrast)
    return (warning_of(judged.fitter_name, leads),) if leads else ()


def _splits(bench: Bench) -> dict[str, int]:
    """How many texts of each kind were used."""
    how, texts = bench.settings, bench.input.texts
    return {
        "screen_pairs": min(how.search.screen_pairs, len(texts.select)),
        "search_pairs": min(how.search.pairs, len(texts.select)),
        "select_pairs": len(texts.select),
        "report_pairs": len(bench.report.pairs),
        "placebo_pairs": min(how.placebo_pairs, len(bench.report.pairs)),
        "completion_tokens": how.completion_tokens or 0,
        "dose_prompts": len(bench.calibration.prompts),
        "price_prompts": len(bench.priced_on.prompts),
        "neutral_texts": len(bench.priced_on.neutral),
        "capability_items": len(bench.priced_on.capability),
        "ablation_pairs": min(how.ablation.pairs, len(texts.requesting)),
    }
