"""The sections of a verdict's page, in reading order. Each takes the verdict and says so when it has nothing."""

from collections.abc import Sequence, Set

from trimtab.steering.judge.verdict import AblationResult, Contender, Generation, SitePoint, Verdict
from trimtab.steering.price.result import KL
from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.charts import ablation, answering, curve, dose, forest, search, tokens
from trimtab.tasks.reporting.document import Section, legend
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, Html, code, details, el, note, p, table
from trimtab.tasks.reporting.drawing.marking import marked
from trimtab.tasks.reporting.drawing.numbers import MISSING, NATS, estimate, finite, number, percent, plural, shorten
from trimtab.tasks.reporting.drawing.svg import HALF, figure
from trimtab.tasks.reporting.drawing.verdict import KINDS, in_order

SHOWN_GENERATIONS = 6
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
    rows = [(s.site, number(s.margin, True), number(s.kl), number(s.strength), _known(s)) for s in verdict.search]
    head = ("site", f"margin, {NATS}", f"KL, {NATS}", "strength", "known by")
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


def _known(point: SitePoint) -> str:
    return f"measured on {plural(point.pairs, 'pair')}" if point.pairs else "forecast"


def _mixed(places: Sequence[search.Candidate]) -> bool:
    """True when the chart by block shows both forecasts and measurements."""
    return len({bool(one.point.pairs) for one in places}) > 1


def _points(places: Sequence[search.Candidate]) -> Html | None:
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


def spread(verdict: Verdict) -> Section:
    """KL per token, of the budget and of the damage."""
    both = [
        ("On text the steered model wrote", tokens.Tokens(verdict.price.budget, verdict.dose.asked)),
        ("On neutral text", tokens.Tokens(verdict.price.damage, None)),
    ]
    lead = note(
        "The budget binds a mean, and a mean hides its tail: most tokens cost almost nothing, a few cost a "
        "lot. Both axes are logarithmic."
    )
    halves = [_half(name, tokens.draw(one), _measured(one.kl)) for name, one in both if one.values]
    nothing = note("Per-token values were not kept; means and tails are in the bill below.")
    title = "Where the nats go, token by token"
    return Section("tokens", "Tokens", title, [lead, el("div.halves", {}, halves)] if halves else nothing)


def _half(name: str, chart: Html, caption: Child = None) -> Html:
    below = el("figcaption", NO_ATTRIBUTES, caption) if caption else None
    return el("figure.half", {}, el("h3", {}, name), el("div", {"style": f"max-width:{HALF + 40}px"}, chart), below)


def _measured(kl: KL) -> str:
    drawn = len(finite(kl.per_token))
    return f"KL({kl.direction.replace('||', ' ‖ ')}), {drawn:,} of {plural(kl.n_tokens, 'token')} drawn"


def dosed(verdict: Verdict) -> Section:
    """The history of the dose."""
    spent = verdict.dose
    passes = "1 forward pass" if spent.forwards == 1 else f"{spent.forwards:,} forward passes"
    facts = p(
        f"Asked for {number(spent.asked)} {NATS}, the calibration prompts got {number(spent.achieved)} "
        f"at strength {number(spent.strength)}. The Fisher closed form guessed {number(spent.first_guess)}; "
        f"the whole dose took {passes}."
    )
    rows = [(str(n + 1), number(s), number(kl)) for n, (s, kl) in enumerate(spent.history)]
    if not finite(kl for _, kl in spent.history):
        return Section("dose", "Dose", "How the strength was found", [facts, note("No verification was recorded.")])
    listing = table("Verifications, in order", ("number", "strength", f"KL, {NATS}"), rows)
    chart = _half("KL of every strength tried", dose.draw(spent))
    body = [
        facts,
        el("div.halves", {}, chart, el("figure.half", {}, el("h3", {}, "The same in numbers"), listing)),
    ]
    return Section("dose", "Dose", "How the strength was found", body)


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
        _half("Gain from asking", ablation.bars(result)),
        _half("Share of that gain removed", _removed(result)),
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


def generated(verdict: Verdict, lexicon: Sequence[str]) -> Section:
    """Base and steered answers, side by side. lexicon: words to highlight in both."""
    cards = [_card(one, lexicon) for one in verdict.generations]
    more = cards[SHOWN_GENERATIONS:]
    rest = details(f"{len(more)} more", el("div.cards", {}, more)) if more else None
    legend_words = f" Highlighted: {plural(len(lexicon), 'word')} of the behaviour." if lexicon else ""
    lead = note(f"Held-out prompts, answered by the untouched model and by the steered one.{legend_words}")
    body = [lead, el("div.cards", {}, cards[:SHOWN_GENERATIONS]), rest]
    nothing = note("No text was kept in this run.")
    return Section("generations", "Text", "Base and steered, side by side", body if cards else nothing)


def _card(one: Generation, lexicon: Sequence[str]) -> Html:
    spent = el("span.chip", {"title": "mean KL per token of this answer"}, f"KL {number(one.kl)} {NATS}")
    return el(
        "article",
        NO_ATTRIBUTES,
        el("div.prompt", {}, el("b", {}, "prompt "), one.prompt),
        el("div.answer", {}, el("b", {}, "base"), el("div.words", {}, marked(one.base, lexicon))),
        el(
            "div.answer.steered",
            {},
            el("b", {}, "steered ", spent),
            el("div.words", {}, marked(one.steered, lexicon)),
        ),
    )


def answered(verdict: Verdict) -> Section:
    """Tokens against accuracy."""
    title, result = "What brevity costs: tokens against accuracy", verdict.answering
    if result is None or not result.points:
        reason = "No questions with known answers were asked." if result is None else "Too few questions were answered."
        return Section("answers", "Answers", title, note(reason))
    lead = note(
        f"The unsteered model answers {result.able} of {result.asked} questions rightly (greedy, at most "
        f"{result.limit} tokens); only these can be lost. A plan earns its tokens when its diamonds stand above the "
        f"base model's own answers cut off at the same length, and above what asking in words keeps."
    )
    kinds = (("k-plan", "this plan"), ("k-system_prompt", "system prompt"), ("k-random", "base answers cut off"))
    present = {f"k-{one.kind}" for one in result.points} | {"k-random"}
    key = legend((style, words) for style, words in kinds if style in present)
    head = ("answered by", "tokens", "tokens saved", "still right", "base answers cut to as many tokens")
    rows = [
        (one.name, estimate(one.tokens), estimate(one.saved, True), estimate(one.kept), estimate(one.cut))
        for one in result.points
    ]
    chart = figure(lambda width: answering.draw(result, width), key)
    return Section("answers", "Answers", title, [lead, chart, table("Tokens against accuracy", head, rows)])


def billed(verdict: Verdict) -> Section:
    """Both directions of KL, perplexity and capability."""
    price = verdict.price
    head = ("KL", "on", "taken at", f"mean, {NATS}", f"p95, {NATS}", f"max, {NATS}", "tokens", "texts (digest)")
    kls = table("Divergence from the base model", head, [_bill(price.budget), _bill(price.damage)])
    rows = [
        (
            "perplexity on neutral text",
            *_pair(price.perplexity_base, price.perplexity_steered),
            "lower is better",
        ),
        (
            "capability, A/B items right",
            *_shares(price.capability_base, price.capability_steered),
            "higher is better",
        ),
    ]
    other = table("Other costs", ("quantity", "base", "steered", "change", ""), rows)
    lead = note(
        "The budget binds the first line: KL(steered ‖ base) on text the steered model wrote, which adds up "
        "along a sequence. It is taken at the recipe's temperature, before top-k and top-p: at another one the same "
        "plan costs another amount. The second line is the damage: the reverse divergence on text that has nothing "
        "to do with the behaviour."
    )
    return Section("price", "Bill", "The bill", [lead, kls, other])


def _bill(kl: KL) -> Sequence[Child]:
    direction = f"KL({kl.direction.replace('||', ' ‖ ')})"
    numbers = (estimate(kl.mean), number(kl.p95), number(kl.max), f"{kl.n_tokens:,}")
    return (direction, kl.tokens, str(kl.sampling), *numbers, code(shorten(kl.prompts_digest, 20)))


def _pair(base: float, steered: float) -> tuple[str, str, str]:
    comparable = len(finite([base, steered])) == 2 and base != 0
    change = f"{steered / base - 1:+.1%}".replace("-", "−") if comparable else MISSING
    return number(base), number(steered), change


def _shares(base: float | None, steered: float | None) -> tuple[str, str, str]:
    if base is None or steered is None:
        return percent(base), percent(steered), MISSING
    return f"{base:.1%}", f"{steered:.1%}", f"{(steered - base) * 100:+.1f} points".replace("-", "−")
