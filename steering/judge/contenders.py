"""Contenders: the plan, the other methods, the system prompt and the placebos, each measured at the same price."""

from collections.abc import Sequence
from dataclasses import replace

from trimtab.steering.judge.bench import Bench, Guesses, prompted_kl
from trimtab.steering.judge.effect import margins
from trimtab.steering.judge.judged import Judged
from trimtab.steering.judge.placebo import Placebo, flipped
from trimtab.steering.judge.search import SearchResult
from trimtab.steering.judge.verdict import NULLS, Contender
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.result import Dose, Price
from trimtab.steering.running.progress import Progress


def judged_plan(bench: Bench, plan: SteeringPlan, dose: Dose, progress: Progress) -> tuple[Judged, Price]:
    """The dosed plan itself, with its behavioural score, and its price."""
    progress("price", 0, 2)
    written = bench.written(plan)
    price = bench.price(plan, written)
    progress("price", 1, 2)
    judged = bench.measured(bench.input.name, "plan", plan, dose, bench.report.of(plan))
    effect = bench.behaved(judged.contender.effect, written)
    progress("price", 2, 2)
    return replace(judged, contender=replace(judged.contender, effect=effect)), price


def judged_rivals(bench: Bench, progress: Progress) -> list[Judged]:
    """Plans of other methods, on all report pairs."""
    judged, rivals = [], bench.input.rivals
    for done, (name, plan) in enumerate(rivals.items()):
        progress("methods", done, len(rivals))
        dosed, dose = bench.dosed(plan)
        judged.append(bench.measured(name, "method", dosed, dose, bench.report.of(dosed)))
    return judged


def judged_prompt(bench: Bench, progress: Progress) -> list[Judged]:
    """The plain system prompt, as it is: it has no strength to dose. Empty when no texts request the behaviour."""
    requesting = bench.input.texts.requesting
    if not requesting:
        return []
    progress("system prompt", 0, 1)
    margin = margins(bench.scorer, bench.cut(requesting, len(bench.report.pairs)))
    on, few = bench.priced_on, bench.settings.dose.prompts
    requests = _partners(bench, on.prompts if bench.input.behaviour is not None else on.prompts[:few])
    written = bench.written_for(requests)
    kl = prompted_kl(bench.scorer, written[:few], on.prompts[:few], on.decoding.sampling)
    effect = bench.behaved(bench.effect(margin), written)
    progress("system prompt", 1, 1)
    return [Judged(Contender("system prompt", "system_prompt", None, None, kl, True, effect), None, margin)]


def _partners(bench: Bench, prompts: Sequence[Tokens]) -> list[Tokens]:
    """Plain report prompts with the request."""
    texts = bench.input.texts
    requests = {
        plain.positive.prompt.ids.tobytes(): pair.positive.prompt
        for plain, pair in zip(texts.report, texts.requesting, strict=True)
    }
    return [requests[prompt.ids.tobytes()] for prompt in prompts]


def flip_of(bench: Bench, choice: SearchResult) -> list[tuple[Placebo, SearchResult]]:
    """The chosen candidate with its sign flipped, whose search for a dose begins at the plan's own strength."""
    flip = flipped(choice.name, choice.plan)
    return [(flip, replace(choice, plan=flip.candidates[choice.name]))] * min(bench.settings.placebos.flip, 1)


def judged_placebos(
    bench: Bench, drawn: Sequence[tuple[Placebo, SearchResult]], plan: tuple[SearchResult, Dose], progress: Progress
) -> list[Judged]:
    """Every placebo, by the candidate that its search chose. plan: the choice and dose of the plan, from which first
    strengths of its refits and its flip are guessed. Random and covariance-matched placebos learn nothing from it, so
    that they are the same for every method: theirs are guessed from a first group of their own."""
    nulls = [one for one in drawn if one[0].kind in NULLS]
    others, of_plan = [one for one in drawn if one[0].kind not in NULLS], Guesses()
    of_plan.add(plan[0].strength, plan[1])
    first, of_nulls, judged = bench.settings.together, Guesses(), list[Judged]()
    for group, guesses in ((nulls[:first], of_nulls), (nulls[first:], of_nulls), (others, of_plan)):
        progress("placebos", len(judged), len(drawn))
        judged += _judged_together(bench, group, guesses)
    progress("placebos", len(drawn), len(drawn))
    return judged


def _judged_together(bench: Bench, group: Sequence[tuple[Placebo, SearchResult]], guesses: Guesses) -> list[Judged]:
    """Placebos that are dosed all together: a decoding step of many rows costs less per row."""
    if not group:
        return []
    first = [guesses.of(choice.strength) for _, choice in group]
    plans = [choice.plan for _, choice in group]
    judged = []
    doses = bench.dosed_together(plans, first, bench.settings.dose.placebo_tolerance)
    for (placebo, choice), (dosed, dose) in zip(group, doses, strict=True):
        guesses.add(choice.strength, dose)
        judged.append(bench.measured(placebo.name, placebo.kind, dosed, dose, bench.some_margins(dosed)))
    return judged
