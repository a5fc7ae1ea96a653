"""The page of a ranking of heads, and of its ablation when there is one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.model.site import Site
from trimtab.tasks.reporting.charts import cumulative, heat
from trimtab.tasks.reporting.document import Section, contents, document, legend
from trimtab.tasks.reporting.drawing.html import Child, Html, code, details, el, note, p, table
from trimtab.tasks.reporting.drawing.numbers import number, percent, plural
from trimtab.tasks.reporting.drawing.svg import figure
from trimtab.tasks.reporting.provenance import reproduce

ROLES = ("facilitating", "interfering", "irrelevant", "inconsistent")
SHOWN = 20
BADGES = {"necessary and sufficient": "good", "necessary": "good", "redundant": "care", "unclear": "care"}


def heads_page(ranking: Ranking, ablation: Mapping[str, Any] | None, about: Mapping[str, str]) -> str:
    """The whole document. ablation: header of an ablation artifact, or None. about: name, ref, command, lineage."""
    parts = [_map(ranking, ablation), _table(ranking)]
    if "g_minus" in ranking.extra:
        parts.append(_stability(ranking))
    if ablation is not None:
        parts += [_verdict(ablation), _curves(ablation), _cost(ablation)]
        parts += [_heads(ablation)] if ablation["heads"] else []
    parts.append(_provenance(ranking, about))
    numbers = {"values": {str(u): float(v) for u, v in zip(ranking.units, ranking.values, strict=True)}}
    numbers |= {} if ablation is None else {"ablation": dict(ablation)}
    return document(f"{about['name']}: heads", [_headline(ranking, ablation, about), contents(parts)], numbers)


def _headline(ranking: Ranking, ablation: Mapping[str, Any] | None, about: Mapping[str, str]) -> Html:
    best = ", ".join(str(unit) for unit in ranking.top(3))
    said, more = f"The first heads by {ranking.method.replace('_', ' ')}: {best}.", []
    badge = el("span.badge.care", {}, "ranked, not tested")
    if ablation is not None:
        verdict = ablation["verdict"]
        said, more = _line(verdict), [el("p.verdict", {}, verdict["sentence"])]
        badge = el(f"span.badge.{BADGES.get(verdict['word'], 'bad')}", {}, verdict["word"])
    facts = [el("span", {}, el("b", {}, f"{k} "), v) for k, v in about.items() if k in ("ref", "model", "task")]
    kicker = el("div.kicker", {}, el("span.brand", {}, "trimtab"), " heads")
    return el("header", {"id": "headline"}, kicker, badge, el("h1", {}, said), *more, el("div.facts", {}, facts))


def _line(verdict: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    lost, left = (percent(verdict[side]["share"]["mean"]) for side in ("necessity", "sufficiency"))
    return f"Without the {plural(len(verdict['units']), 'head')}, {lost} of the metric is lost; they alone keep {left}."


def _map(ranking: Ranking, ablation: Mapping[str, Any] | None) -> Section:
    tested_places = [] if ablation is None else [_place(Site.parse(u)) for u in ablation["verdict"]["units"]]
    values = _values(ranking, ranking.values)
    tested = " Outlined: the heads that were tested." if tested_places else ""
    colours = legend((("for", "above 0"), ("against", "below 0")))
    caption = el("figcaption", {}, colours, f"Full colour is the largest size.{tested}")
    chart = figure(lambda width: heat.heads(values, width, ranking.method, tested_places), caption)
    return Section("map", "Heads", "Which heads, by block", [note(ranking.meaning), chart])


def _table(ranking: Ranking) -> Section:
    rows = []
    for unit in ranking.top(SHOWN):
        k = ranking.units.index(unit)
        ends = (
            ""
            if ranking.low is None or ranking.high is None
            else f"[{number(float(ranking.low[k]))}, {number(float(ranking.high[k]))}]"
        )
        label = () if ranking.labels is None else (ranking.labels[k],)
        rows.append((str(unit), number(float(ranking.values[k]), signed=True), ends, *label))
    columns = ("head", "value", "95% interval", *(() if ranking.labels is None else ("label",)))
    listing = table("Best first", columns, rows)
    return Section("top", "Top heads", f"The first {len(rows)} heads", listing)


def _stability(ranking: Ranking) -> Section:
    """Per-seed gates, and how often each role was given."""
    grids = [_values(ranking, row) for row in ranking.extra["g_minus"]]
    frequency = ranking.extra["frequency"]
    rows = [
        (role, str(int((frequency[k] > 0).sum())), str(int((frequency[k] == 1).sum()))) for k, role in enumerate(ROLES)
    ]
    correlation = np.corrcoef(ranking.extra["g_minus"]) if len(grids) > 1 else np.ones((1, 1))
    off = correlation[np.triu_indices(len(grids), 1)]
    said = f"Mean correlation between two seeds' gates: {number(float(off.mean()))}." if len(off) else ""
    chart = figure(lambda width: heat.seeds(grids, width, "facilitation"))
    listing = table(f"Heads by role, of {frequency.shape[1]}, over {len(grids)} seeds",
                    ("role", "in any seed", "in every seed"), rows)  # fmt: skip
    lead = note("Facilitation of every head in each fit. Roles that change from seed to seed belong to a fit, not to a "
                f"head. {said}")  # fmt: skip
    return Section("seeds", "Stability", "The same in every seed?", [lead, chart, listing])


def _verdict(ablation: Mapping[str, Any]) -> Section:
    verdict = ablation["verdict"]
    rows = []
    for name, what in (("necessity", "lost without the set"), ("sufficiency", "kept with the set alone")):
        side = verdict[name]
        over = side["over_random"]
        share, effect, beside = _share(side["share"]), _interval(side["effect"]), _range(side["random"])
        more = "" if over is None else _interval(over)
        rows.append((what, share, effect, beside, more, "" if side["p"] is None else number(side["p"])))
    columns = ("", "share of the metric", "nats", "random sets, 5% to 95%", "more than random, nats", "rank p")
    lead = note(
        f"Metric: {verdict['metric']}. Operator: {verdict['operator']}. Whole model {_interval(verdict['whole'])}, "
        f"without all {verdict['universe']} heads {_interval(verdict['empty'])}; {ablation['questions']} questions "
        f"that the ranking was not made on."
    )
    heads = details(f"Tested: {plural(len(verdict['units']), 'head')}", p(", ".join(verdict["units"])))
    return Section(
        "verdict", "Verdict", "Necessary? Sufficient?", [lead, table("Both directions", columns, rows), heads]
    )


def _curves(ablation: Mapping[str, Any]) -> Section:
    names = {"without": "first k heads taken out", "alone": "nothing but the first k heads"}
    charts = [figure(partial(_curve, ablation["curves"][name], label)) for name, label in names.items()]
    sets = ablation["settings"]["curve_random"]
    band = legend((("k-plan", "the ranking, with its 95% interval"), ("k-random", f"90% of {sets} random sets")))
    return Section("curves", "Curves", "Head after head", [*charts, el("figcaption", {}, band)])


def _curve(curve: Mapping[str, Any], label: str, width: int) -> Html:
    return cumulative.draw(curve, width, label)


def _cost(ablation: Mapping[str, Any]) -> Section:
    cost, others = ablation["off_target"], ablation["others"]
    said: list[Child] = []
    if cost is None:
        said.append(note("Not measured: this operator has nothing to put into neutral text."))
    else:
        said.append(p(f"On neutral text, KL(base ‖ without the set) is {_interval(cost['mean'])} nats per token (p95 "
                      f"{number(cost['p95'])}, {cost['tokens']} tokens); random sets of the same blocks cost "
                      f"{_range(cost['random'], share=False)}."))  # fmt: skip
    if others:
        rows = [(name, percent(share)) for name, share in others.items()]
        said.append(table("Share of the metric lost without the set, by task", ("task", "lost"), rows))
    return Section("cost", "Elsewhere", "What else it breaks", said)


def _heads(ablation: Mapping[str, Any]) -> Section:
    tests = ablation["heads"]
    order = np.argsort(tests["p"])[:SHOWN]
    rows = [
        (tests["units"][k], number(tests["drop"][k], signed=True), *(number(tests[n][k]) for n in ("p", "holm", "bh")))
        for k in order
    ]
    lead = note("Every head alone taken out; two-sided sign-flip test over questions. One head at a time understates: "
                "what another head takes over is not seen.")  # fmt: skip
    listing = table("Smallest p first", ("head", "lost, nats", "p", "Holm", "Benjamini-Hochberg"), rows)
    return Section("heads", "One by one", "Head by head", [lead, listing])


def _provenance(ranking: Ranking, about: Mapping[str, str]) -> Section:
    rows = [(name, code(value)) for name, value in about.items() if name not in ("lineage", "command")]
    rows += [(f"rank.{name}", code(str(value))) for name, value in ranking.settings.items()]
    parts = [reproduce(about.get("command")), table("This version", ("", ""), rows), el("pre", {}, about["lineage"])]
    return Section("provenance", "Provenance", "How it was made", parts)


def _values(ranking: Ranking, numbers: Sequence[float] | np.ndarray) -> dict[heat.HeadPlace, float]:
    pairs = zip(ranking.units, numbers, strict=True)
    return {_place(unit): float(x) for unit, x in pairs if unit.head is not None and np.isfinite(x)}


def _place(unit: Site) -> heat.HeadPlace:
    return unit.block or 0, unit.head or 0


def _interval(value: Mapping[str, float]) -> str:
    return f"{number(value['mean'])} [{number(value['low'])}, {number(value['high'])}]"


def _share(value: Mapping[str, float]) -> str:
    return f"{percent(value['mean'])} [{percent(value['low'])}, {percent(value['high'])}]"


def _range(values: Sequence[float], share: bool = True) -> str:
    if not values:
        return "none tried"
    low, high = np.quantile(values, [0.05, 0.95])
    write = percent if share else number
    return f"{write(float(low))} to {write(float(high))}"
