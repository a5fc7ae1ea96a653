"""The sections of a verdict's page that say what the plan achieves: where it acts, beside its placebos, at other
budgets, and what is lost without its direction. Each says so when it has nothing."""

from collections.abc import Sequence, Set

from trimtab.steering.judge.verdict import AblationResult, Contender, SitePoint, Verdict
from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.charts import ablation, curve, forest, search
from trimtab.tasks.reporting.document import Section, legend
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, Html, details, el, note, table
from trimtab.tasks.reporting.drawing.numbers import MISSING, NATS, estimate, finite, number, percent, plural
from trimtab.tasks.reporting.drawing.svg import figure, half_figure
from trimtab.tasks.reporting.drawing.verdict import KINDS, in_order

FORECASTS = (
    "Hollow points are forecasts, filled ones measurements. The chosen one need not be the highest: only measured "
    "sites could be chosen, by their margin brought from the KL that each spent to the budget."
)


def searched(verdict: Verdict) -> Section:
    """Effect by block, and by head where single heads were searched."""
    candidates = search.candidates(verdict.search, verdict.site)
    heads = [c for c in candidates if c.site.head is not None]
    places = [c for c in candidates if c.site.head is None]
    charts: list[Child] = [figure(lambda width: search.by_block(places, width), _points(places))] if places else []
    charts += [figure(lambda width: search.by_head(heads, width), _scale_of_heads())] if heads else []
    rows = [_candidate_row(point) for point in verdict.search]
    head = ("site", f"margin, {NATS}", f"KL, {NATS}", "strength", "known by", f"forecast margin, {NATS}")
    listing = details(f"All {plural(len(rows), 'candidate')}", table("Candidates of the search", head, rows))
    lead = note(
        "Every candidate was forecast at the same KL by its linear response, the best few were measured there, and "
        "the site was chosen from these, all on the selection split; the effects below are measured on another. "
        "Every placebo was searched in the same way."
    )
    forecasts = note(FORECASTS) if _mixed(places) else None
    nothing = note("No search was run: the site was given.")
    body = [lead, forecasts, charts or note("No candidate names a block to draw it at."), listing]
    title = f"Where it acts: effect by {'head' if heads and not places else 'block'}"
    return Section("search", "Site", title, body if rows else nothing)


def _candidate_row(point: SitePoint) -> tuple[str, ...]:
    forecast = MISSING if point.forecast is None else number(point.forecast, True)
    return (point.site, number(point.margin, True), number(point.kl), number(point.strength), _known(point), forecast)


def _known(point: SitePoint) -> str:
    return f"measured on {plural(point.pairs, 'pair')}" if point.pairs else "forecast"


def _mixed(places: Sequence[search.SearchedSite]) -> bool:
    """True when the chart by block shows both forecasts and measurements."""
    return len({bool(one.point.pairs) for one in places}) > 1


def _points(places: Sequence[search.SearchedSite]) -> Html | None:
    kinds = search.series(places)
    names = [(f"s{n % search.SERIES_COLOURS}", kind) for n, kind in enumerate(kinds)] if len(kinds) > 1 else []
    how = [("measured", "measured"), ("forecast", "forecast")] if _mixed(places) else []
    return legend([*names, *how]) if names or how else None


def _scale_of_heads() -> Html:
    return el(
        "figcaption",
        NO_ATTRIBUTES,
        legend((("for", "moves the margin up"), ("against", "moves it down"))),
        "Full colour is the largest effect found.",
    )


def contended(verdict: Verdict) -> Section:
    """The forest of margins, and that of behaviour where it was scored."""
    title, order = "Beside its placebos, at the same price", in_order(verdict)
    if not order:
        return Section("contenders", "Placebos", title, note("No contender was run."))
    lead = note(
        "Each contender was given the same KL budget, and placebos the best site that the plan's own search found for "
        "them. Diamond: this plan; the shaded column is its interval, "
        "and what overlaps it is not clearly beaten. Hollow and dashed: could not be dosed to the budget, "
        "and left out of every claim. "
        "“Own price”: has no strength to dose, such as a prompt."
    )
    metric = verdict.behaviour_metric or "behaviour score"
    margins = forest.Forest(order, lambda c: c.effect.margin, f"change of the margin, {NATS}", verdict.dose.asked)
    chart = figure(lambda width: forest.draw(margins, width), _kinds({c.kind for c in order}))
    listing = details(f"All {plural(len(order), 'contender')}", _contenders_table(order, metric))
    body = [lead, chart, _behaviour_figure(order, metric, verdict.dose.asked), listing]
    return Section("contenders", "Placebos", title, body)


def _behaviour(contender: Contender) -> Interval:
    return contender.effect.behaviour or contender.effect.margin


def _behaviour_figure(order: Sequence[Contender], metric: str, budget: float) -> Child:
    scored = [c for c in order if c.effect.behaviour is not None]
    if not scored:
        return None
    title = f"On generated text: {metric}"
    behaviour = forest.Forest(scored, _behaviour, f"change of {metric}", budget, title)
    return [el("h3", NO_ATTRIBUTES, title), figure(lambda width: forest.draw(behaviour, width))]


def _kinds(present: Set[str]) -> Html:
    return legend((f"k-{kind}", words) for kind, words in KINDS.items() if kind in present)


def _contenders_table(order: Sequence[Contender], metric: str) -> Html:
    scored = any(c.effect.behaviour for c in order)
    head = [
        "contender",
        "kind",
        "site",
        f"margin, {NATS}",
        f"plan minus this, {NATS}",
        f"KL got, {NATS}",
        "KL asked",
        "strength",
    ]
    rows = [
        [
            c.name,
            KINDS.get(c.kind, c.kind),
            c.site or MISSING,
            estimate(c.effect.margin, True),
            "the plan" if c.kind == "plan" else estimate(c.difference, True),
            number(c.kl) + ("" if c.reachable else " (unreachable)"),
            "none" if c.kl_asked is None else number(c.kl_asked),
            "none" if c.strength is None else number(c.strength),
            *([estimate(c.effect.behaviour, True)] if scored else []),
        ]
        for c in order
    ]
    return table("Every contender at the same price", [*head, metric] if scored else head, rows)


def curved(verdict: Verdict) -> Section:
    """Effect against KL."""
    points = curve.drawable(verdict.curve)
    lead = note(
        "The same measurement at other budgets. A method worth its price stays above its placebos at every "
        "KL, not only at the one that was asked."
    )
    head = ("contender", f"KL, {NATS}", f"margin, {NATS}", "strength")
    rows = [(c.contender, number(c.kl), estimate(c.margin, True), number(c.strength)) for c in verdict.curve]
    listing = details(f"All {plural(len(rows), 'point')}", table("Effect against KL", head, rows))
    chart = figure(lambda width: curve.draw(verdict, width), _kinds(curve.kinds(verdict))) if points else None
    nothing = note("No curve was measured in this run.")
    title = "What a larger budget buys: effect against KL"
    return Section("curve", "Budget", title, [lead, chart, listing] if chart else nothing)


def ablated(verdict: Verdict) -> Section:
    """Necessity: what ablation takes away."""
    title = "What is lost without the direction"
    result = verdict.ablation
    if result is None:
        return Section("ablation", "Ablation", title, note("No ablation in this run."))
    lead = note(
        "The model is asked for the behaviour in words, and the direction is taken out of its activations. "
        "If the model uses this direction, the gain from asking goes with it, and not with a random one."
    )
    halves = el(
        "div.halves",
        {},
        half_figure("Gain from asking", ablation.bars(result)),
        half_figure("Share of that gain removed", _removed(result)),
    )
    return Section("ablation", "Ablation", title, [lead, halves, _ablation_table(result)])


def _removed(result: AblationResult) -> Html:
    """The chart of the shares, or a sentence where there is no share to draw."""
    if finite([result.removed, *result.random_removed]):
        return ablation.removed(result)
    return note("No share is given: the gain from asking cannot be told from 0, so there is no gain to remove.")


def _ablation_table(result: AblationResult) -> Html:
    others = finite(result.random_removed)
    rows = [
        ("operator", result.operator),
        ("reference set", result.reference),
        ("gain from asking", f"{estimate(result.asked_gain, True)} {NATS}"),
        ("gain after ablation", f"{estimate(result.gain_after, True)} {NATS}"),
        ("removed", percent(result.removed)),
        ("removed by random directions", ", ".join(map(percent, others)) or MISSING),
        ("KL of the ablation", f"{number(result.kl)} {NATS}"),
    ]
    return details("These numbers", table("Ablation", ("quantity", "value"), rows))
