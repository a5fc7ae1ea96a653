"""judge: the best of the candidate plans at one price, beside its placebos at the same price.

Chosen on the selection split, reported on the other. The search is part of the null: each placebo is a set of as many
candidates, from which the same search chooses, so what choosing gains by chance the placebos gain too. Every competitor
is dosed to the same KL on the same prompts by the same `dose`, and every claim of the verdict is an interval's.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from trimtab.steering.fitters._leading import leads_of, warning_of
from trimtab.steering.judge.answering import Examiner
from trimtab.steering.judge.bench import Bench, Guesses, Judged, prompted_kl
from trimtab.steering.judge.direction_ablation import AblationSettings, Asked, ablate, residual_direction
from trimtab.steering.judge.effect import margins
from trimtab.steering.judge.placebo import Placebo, flipped, placebos
from trimtab.steering.judge.search import Choice
from trimtab.steering.judge.trial import Progress, Trial
from trimtab.steering.judge.verdict import (
    AblationResult,
    Answering,
    Contender,
    CurvePoint,
    Generation,
    Verdict,
)
from trimtab.steering.judge.wording import beats_random, sentence
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Role, Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.price.result import Dose, Price
from trimtab.steering.running.writing import Decoding, generate

CURVES = ("plan", "random")  # of each of these kinds, the first contender's curve is drawn


def judge(trial: Trial, progress: Progress = lambda stage, done, total: None) -> Verdict:
    """The verdict on the best candidate. progress: called with a stage's name, steps done, steps in all.

    Takes minutes on two cores; `trial.settings` trades time for precision. Raises SteeringError for texts that cannot
    give an interval. The plan at its dose is `dosed_plan(trial, verdict)`.
    """
    bench, how = Bench(trial), trial.settings
    drawn = placebos(trial.candidates, trial.contrast, trial.fitter, how.placebos, how.seed)
    choice, *choices = bench.search([trial.candidates, *(one.candidates for one in drawn)], progress)
    progress("dose", 0, 1)
    chosen, dose = bench.dosed(choice.plan, choice.strength or None)
    progress("dose", 1, 1)
    plan, price = _plan(bench, chosen, dose, progress)
    nulls = _placebos(bench, [*zip(drawn, choices, strict=True), *_flip(bench, choice)], (choice, dose), progress)
    others = [*_rivals(bench, progress), *_prompt(bench, progress), *nulls]
    verdict = Verdict(
        plan=trial.plan,
        site=choice.site,
        fitter=trial.fitter_name,
        beats_random=False,
        sentence="",
        dose=dose,
        price=price,
        contenders=(plan.contender, *(bench.against(plan, other) for other in others)),
        search=choice.points,
        curve=_curve(bench, [plan, *others], progress),
        ablation=_ablation(bench, choice.plan, progress),
        generations=_generations(bench, chosen, progress),
        splits=_splits(bench),
        behaviour_metric=None if trial.behaviour is None else trial.behaviour.metric,
        answering=_answering(bench, chosen, progress),
        paired=all(pair.paired for pair in bench.report.pairs),
        warnings=_led(trial, choice.plan),
    )
    verdict = replace(verdict, beats_random=beats_random(verdict.contenders))
    return replace(verdict, sentence=sentence(verdict))


def dosed_plan(trial: Trial, verdict: Verdict) -> SteeringPlan:
    """The judged plan at the strength that was found: what to publish."""
    return trial.candidates[verdict.site].scaled(verdict.dose.strength)


def _led(trial: Trial, candidate: SteeringPlan) -> tuple[str, ...]:
    """That the judged direction is little more than one massive coordinate, where it is."""
    leads = leads_of(candidate.interventions, trial.contrast)
    return (warning_of(trial.fitter_name, leads),) if leads else ()


def _plan(bench: Bench, chosen: SteeringPlan, dose: Dose, progress: Progress) -> tuple[Judged, Price]:
    progress("price", 0, 2)
    written = bench.written(chosen)
    price = bench.price(chosen, written)
    progress("price", 1, 2)
    judged = bench.measured(bench.trial.plan, "plan", chosen, dose, bench.report.of(chosen))
    effect = bench.behaved(judged.contender.effect, written)
    progress("price", 2, 2)
    return replace(judged, contender=replace(judged.contender, effect=effect)), price


def _rivals(bench: Bench, progress: Progress) -> list[Judged]:
    """Plans of other methods, on all report pairs."""
    found, rivals = [], bench.trial.rivals
    for done, (name, plan) in enumerate(rivals.items()):
        progress("methods", done, len(rivals))
        dosed, dose = bench.dosed(plan)
        found.append(bench.measured(name, "method", dosed, dose, bench.report.of(dosed)))
    return found


def _prompt(bench: Bench, progress: Progress) -> list[Judged]:
    """The plain system prompt: not dosed, it costs what it costs."""
    asked = bench.trial.texts.asked
    if not asked:
        return []
    progress("system prompt", 0, 1)
    margin = margins(bench.scorer, bench.cut(asked, len(bench.report.pairs)))
    on = bench.priced_on
    requests, few = _partners(bench, on.prompts), bench.settings.dose.prompts
    kl = prompted_kl(bench.scorer, requests[:few], on.prompts[:few], on.decoding)
    effect = bench.effect(margin)
    if bench.trial.behaviour is not None:
        effect = bench.behaved(effect, bench.written_for(requests))
    progress("system prompt", 1, 1)
    return [Judged(Contender("system prompt", "system_prompt", None, None, kl, True, effect), None, margin)]


def _partners(bench: Bench, prompts: Sequence[Tokens]) -> list[Tokens]:
    """The asking version of each plain report prompt."""
    texts = bench.trial.texts
    asking = {
        plain.positive.prompt.ids.tobytes(): asked.positive.prompt
        for plain, asked in zip(texts.report, texts.asked, strict=True)
    }
    return [asking[prompt.ids.tobytes()] for prompt in prompts]


def _flip(bench: Bench, choice: Choice) -> list[tuple[Placebo, Choice]]:
    """The flip begins at the strength of the plan itself."""
    flip = flipped(choice.site, choice.plan)
    return [(flip, replace(choice, plan=flip.candidates[choice.site]))] * min(bench.settings.placebos.flip, 1)


def _placebos(
    bench: Bench, drawn: Sequence[tuple[Placebo, Choice]], known: tuple[Choice, Dose], progress: Progress
) -> list[Judged]:
    """Every placebo at the site that its search chose. known: the plan's choice and dose, for first strengths."""
    how, guesses, found = bench.settings, Guesses(), list[Judged]()
    guesses.add(known[0].strength, known[1])
    for start in range(0, len(drawn), how.together):
        progress("placebos", start, len(drawn))
        group = drawn[start : start + how.together]
        first = [guesses.of(choice.strength) for _, choice in group]
        doses = bench.dosed_together([choice.plan for _, choice in group], first, how.dose.placebo_tolerance)
        for (placebo, choice), (plan, dose) in zip(group, doses, strict=True):
            guesses.add(choice.strength, dose)
            found.append(bench.measured(placebo.name, placebo.kind, plan, dose, bench.some_margins(plan)))
    progress("placebos", len(drawn), len(drawn))
    return found


def _curve(bench: Bench, judged: Sequence[Judged], progress: Progress) -> tuple[CurvePoint, ...]:
    """Effect against KL: strengths by KL ~ strength^2 from the dose, KL as measured there."""
    drawn = [next((j for j in judged if j.contender.kind == kind), None) for kind in CURVES]
    curves = [one for one in drawn if one is not None and one.plan is not None and one.contender.kl > 0]
    targets, found = bench.settings.curve, []
    for number, one in enumerate(curves):
        found.append(_known_point(one.contender))
        for done, target in enumerate(targets):
            progress("curve", number * len(targets) + done, len(curves) * len(targets))
            found += _curve_point(bench, one, target)
    progress("curve", 1, 1)
    return tuple(sorted(found, key=lambda point: (point.contender, point.kl)))


def _known_point(contender: Contender) -> CurvePoint:
    return CurvePoint(contender.name, contender.strength or 0.0, contender.kl, contender.effect.margin)


def _curve_point(bench: Bench, one: Judged, target: float) -> list[CurvePoint]:
    """The point near a KL target; none when it is the dose itself, or when the logits break there."""
    factor = math.sqrt(target / one.contender.kl)
    if one.plan is None or abs(target / bench.trial.budget - 1) < 0.05:
        return []
    plan = one.plan.scaled(factor)
    kl = bench.calibration.kl(plan)
    if not math.isfinite(kl):
        return []
    margin = bench.effect(bench.some_margins(plan)).margin
    return [CurvePoint(one.contender.name, factor * (one.contender.strength or 0.0), kl, margin)]


def _ablation(bench: Bench, candidate: SteeringPlan, progress: Progress) -> AblationResult | None:
    """None when nothing asks for the behaviour, or when no ablation was wanted."""
    trial, how = bench.trial, bench.settings.ablation
    if not trial.texts.asked or how.pairs < 2:
        return None
    progress("ablation", 0, 1)
    texts = Asked(bench.cut(trial.texts.asked, how.pairs), bench.cut(trial.texts.report, how.pairs), trial.request)
    direction = residual_direction(Anatomy.of(trial.model), candidate, trial.contrast)
    settings = AblationSettings(how.random, bench.settings.seed, bootstrap=bench.settings.bootstrap)
    found = ablate(bench.scorer, direction, texts, settings)
    progress("ablation", 1, 1)
    return found


def _generations(bench: Bench, chosen: SteeringPlan, progress: Progress) -> tuple[Generation, ...]:
    """Greedy answers to held-out prompts, with and without the plan."""
    progress("generations", 0, 1)
    trial, how = bench.trial, bench.settings
    prompts = bench.priced_on.prompts[: how.generations]
    decoding = Decoding(how.generation_tokens, temperature=0.0)
    base, steered = (generate(trial.model, prompts, plan, decoding) for plan in (None, chosen))
    texts = [prompt.followed_by(ids) for prompt, ids in zip(prompts, steered, strict=True)]
    spent = divergences(bench.scorer, texts, steered_from_base(chosen))
    progress("generations", 1, 1)
    return tuple(
        Generation(_shown(trial, p), trial.decode(b), trial.decode(s), float(kl.mean()) if len(kl) else 0.0)
        for p, b, s, kl in zip(prompts, base, steered, spent, strict=True)
    )


def _answering(bench: Bench, chosen: SteeringPlan, progress: Progress) -> Answering | None:
    """Tokens against accuracy; None when no questions with known answers were given."""
    trial, how = bench.trial, bench.settings
    if not trial.texts.known:
        return None
    examiner = Examiner(trial.model, trial.decode, how.answering, how.bootstrap)
    return examiner.answering(trial.texts.known, chosen, progress)


def _shown(trial: Trial, prompt: Tokens) -> str:
    """What the user said, without the template around it."""
    said = [int(i) for i, role in zip(prompt.ids, prompt.roles, strict=True) if role in (Role.USER, Role.TEXT)]
    return trial.decode(said or prompt.ids.tolist()).strip()


def _splits(bench: Bench) -> dict[str, int]:
    how, texts = bench.settings, bench.trial.texts
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
        "ablation_pairs": min(how.ablation.pairs, len(texts.asked)),
    }
