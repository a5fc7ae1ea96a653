"""The first screen: the verdict in words, the five numbers that matter, and what to be careful about."""

import math
import re

from trimtab.steering.judge.verdict import Verdict
from trimtab.steering.judge.wording import enough
from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, Html, el
from trimtab.tasks.reporting.drawing.numbers import (
    MISSING,
    NATS,
    bracket,
    centre,
    coverage,
    finite,
    number,
    percent,
    plural,
    shorten,
)
from trimtab.tasks.reporting.drawing.verdict import KINDS, PLACEBOS, RANDOM, best_placebo, plan_of

# the smallest p that R random directions can show is 1 / (R + 1)
RANDOM_FOR_FIVE_PERCENT = 19


def headline(verdict: Verdict, reference: str | None) -> Html:
    """The header of the page."""
    said = [el("li", NO_ATTRIBUTES, one) for one in sentences(verdict.sentence)]
    sentence = [el("h1", {}, _title(verdict)), el("ul.verdict", {}, said) if said else None]
    labelled = [
        ("plan", verdict.plan),
        ("method", verdict.fitter),
        ("site", verdict.site),
        ("version", reference),
    ]
    facts = [el("span", {}, el("b", {}, f"{name} "), shorten(value, 90)) for name, value in labelled if value]
    return el(
        "header",
        {"id": "headline"},
        el("div.kicker", {}, el("span.brand", {}, "trimtab"), " verdict"),
        _badge(verdict),
        sentence,
        el("div.facts", {}, facts),
        el(
            "div.tiles",
            {},
            _effect(verdict),
            _kl(verdict),
            _placebo(verdict),
            _damage(verdict),
            _ablated(verdict),
        ),
        _warnings(verdict),
    )


def sentences(text: str) -> list[str]:
    """The verdict's text cut where a full stop is followed by a capital letter; joined by spaces, they are the text."""
    return re.split(r"(?<=\.) (?=[A-Z])", text) if text else []


def _title(verdict: Verdict) -> str:
    """What the plan does and what it costs, in one line; the whole verdict stands below it."""
    plan = plan_of(verdict)
    if plan is None:
        return f"Verdict of {verdict.plan}"
    margin, price = plan.effect.margin, f"at a price of {centre(verdict.price.budget.mean)}"
    if margin.low > 0 or margin.high < 0:
        moves = "raises" if margin.low > 0 else "lowers"
        return f"{verdict.plan} {moves} the margin by {centre(margin).lstrip('−')} {NATS}, {price}"
    return f"{verdict.plan} has no effect on the margin that can be told from 0, {price}"


def _badge(verdict: Verdict) -> Html:
    """The answer in a word. Beating every one of no placebos is no answer, whatever the field says."""
    if not any(c.kind in RANDOM for c in verdict.contenders):
        return el("span.badge.care", {}, "No random placebo was run")
    if not enough(verdict.contenders):
        return el("span.badge.care", {}, "Too few random placebos could be dosed")
    if verdict.beats_random:
        return el("span.badge.good", {}, "✓ Beats every random placebo")
    return el("span.badge.bad", {}, "✕ Does not beat its random placebos")


def _tile(name: str, value: str, unit: str, *lines: Child) -> Html:
    missing = value == MISSING
    shown = el("div.big.missing" if missing else "div.big", {}, value)
    small = [el("div.small", {}, one) for one in lines if one]
    return el("section.tile", {}, el("h2", {}, name), shown, el("div.unit", {}, "" if missing else unit), small)


def _effect(verdict: Verdict) -> Html:
    plan = plan_of(verdict)
    if plan is None:
        return _tile("Effect", MISSING, NATS, "The plan is not among the contenders.")
    margin = plan.effect.margin
    levels = f"margin {number(plan.effect.margin_base, True)} → {number(plan.effect.margin_steered, True)}"
    texts = "held-out pairs" if verdict.paired else "couples of unrelated held-out texts"
    interval = f"{bracket(margin, True)}, {coverage(margin, texts)}"
    return _tile("Effect on the margin", centre(margin, True), NATS, interval, levels)


def _kl(verdict: Verdict) -> Html:
    dose, spent = verdict.dose, verdict.price.budget.mean
    interval = f"{bracket(spent)} on text it wrote itself, {dose.sampling}"
    calibration = f"{number(dose.asked)} asked, {number(dose.achieved)} on the calibration prompts"
    return _tile("KL spent", centre(spent), NATS, interval, calibration)


def _placebo(verdict: Verdict) -> Html:
    best = best_placebo(verdict)
    if best is None:
        what = "dosed to the budget" if any(c.kind in PLACEBOS for c in verdict.contenders) else "run"
        return _tile("Best placebo", MISSING, NATS, f"No placebo was {what}, so no effect can be claimed.")
    count = sum(c.kind in PLACEBOS and c.reachable for c in verdict.contenders)
    margin = best.effect.margin
    who = f"{shorten(best.name, 34)} ({KINDS[best.kind]}), the best of {count}"
    return _tile("Best placebo", centre(margin, True), NATS, bracket(margin, True), who)


def _damage(verdict: Verdict) -> Html:
    price = verdict.price
    damage = price.damage.mean
    perplexity = f"perplexity {number(price.perplexity_base)} → {number(price.perplexity_steered)}"
    return _tile("Damage", centre(damage), NATS, f"{bracket(damage)} on neutral text", perplexity)


def _ablated(verdict: Verdict) -> Html:
    result = verdict.ablation
    if result is None:
        return _tile("Removed by ablation", MISSING, "", "No ablation in this run.")
    if result.removed is None:
        return _tile("Removed by ablation", MISSING, "", "Asking in words gains nothing here: nothing to remove.")
    others = finite(result.random_removed)
    beside = f"random directions remove at most {percent(max(others))}" if others else "no random directions"
    return _tile("Removed by ablation", percent(result.removed), "of what asking gains", beside)


def _warnings(verdict: Verdict) -> Html | None:
    """What a careful reader should know before believing the tiles; nothing when there is nothing."""
    warnings = [*verdict.warnings, *_of_price(verdict), *_of_contenders(verdict)]
    if not warnings:
        return None
    items = [el("li", NO_ATTRIBUTES, one) for one in warnings]
    return el("aside", {"aria-label": "Read with care"}, el("b", {}, "Read with care"), el("ul", {}, items))


def _of_price(verdict: Verdict) -> list[str]:
    dose, spent = verdict.dose, verdict.price.budget.mean
    warnings = []
    if not dose.reachable:
        warnings.append(
            f"The budget of {number(dose.asked)} {NATS} could not be reached: the nearest strength spends "
            f"{number(dose.achieved)}. The final norm forgets scale, so KL saturates."
        )
    if _outside(dose.asked, spent):
        side = "above" if spent.low > dose.asked else "below"
        warnings.append(
            f"On held-out text the price is {side} the budget, interval included: {bracket(spent)} against "
            f"{number(dose.asked)} {NATS} asked."
        )
    return warnings


def _of_contenders(verdict: Verdict) -> list[str]:
    warnings = []
    drawn = sum(c.kind in RANDOM and c.reachable for c in verdict.contenders)
    if 0 < drawn < RANDOM_FOR_FIVE_PERCENT:
        warnings.append(
            f"{plural(drawn, 'random direction')}: the smallest p-value a rank test can give is "
            f"{number(1 / (drawn + 1))}; {RANDOM_FOR_FIVE_PERCENT} are needed for 0.05."
        )
    missed = [c.name for c in verdict.contenders if not c.reachable and c.kind != "plan"]
    if missed:
        names = shorten(", ".join(missed), 120)
        beaten = "was" if len(missed) == 1 else "were"
        warnings.append(
            f"{plural(len(missed), 'contender')} could not be dosed to the budget, and {beaten} not beaten: {names}."
        )
    return warnings


def _outside(value: float, interval: Interval) -> bool:
    ends = (interval.low, interval.high)
    return all(map(math.isfinite, ends)) and not ends[0] <= value <= ends[1]
