"""The page of a study: which method buys the most of a behaviour per nat, beside its placebos, in one leaderboard."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.charts import study as charts
from trimtab.tasks.reporting.document import Section, contents, document, legend
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, el, note, p, sortable, table
from trimtab.tasks.reporting.drawing.numbers import MISSING, NATS, estimate, number
from trimtab.tasks.reporting.provenance import reproduce

Row = Mapping[str, Any]
HEAD = (
    "behaviour", "method", "budget", "margin", "margin per nat", "on generated text", "placebos beaten", "p, Holm",
    "beyond a token bias", "KL spent", "damage", "acts at", "fit, s", "judge, s", "needs",
)  # fmt: skip


def study_page(header: Mapping[str, Any], ref: str, command: str | None = None) -> str:
    """The whole document, from the header of a study. command: to reproduce it."""
    rows: Sequence[Row] = header["rows"]
    judged = [row for row in rows if not row["problem"]]
    parts = [leaderboard(judged), drawn(judged), failed(rows), asked(command)]
    top = el("header", NO_ATTRIBUTES, el("h1", NO_ATTRIBUTES, ref), *map(p, sentences(judged)))
    return document(f"{ref}: study", [top, contents([part for part in parts if part is not None])], header)


def sentences(rows: Sequence[Row]) -> list[str]:
    """One per behaviour and budget: the method with most margin among those that beat their placebos."""
    return [_sentence(*group, members) for group, members in groups(rows).items()]


def groups(rows: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    """Rows by behaviour and budget, those with most margin first."""
    by_group: dict[tuple[str, float], list[Row]] = {}
    for row in sorted(rows, key=lambda row: -row["margin"]["mean"]):
        by_group.setdefault((row["behaviour"], row["budget"]), []).append(row)
    return dict(sorted(by_group.items()))


def leaderboard(rows: Sequence[Row]) -> Section:
    """All cells, best first."""
    lead = note(
        "Every row is judged alone: searched, dosed to its budget on rollouts, measured on held-out pairs, beside "
        "placebos that were searched and dosed alike. Margin: nats per token between wanted and unwanted answers. p: "
        "of the placebo that comes nearest, corrected over the whole table (Holm). Beyond a token bias: margin that a "
        "bias on the logits, at the same price, does not give. Damage: KL(base || steered) on neutral text."
    )
    ordered = sorted(rows, key=lambda row: -row["margin"]["mean"])
    return Section("leaderboard", "Leaderboard", "What each method buys",
                   [lead, sortable("All cells", HEAD, map(_cells, ordered))])  # fmt: skip


def drawn(rows: Sequence[Row]) -> Section:
    """Margins with intervals, by behaviour and budget."""
    marks = legend((("k-plan", "beats its placebos"), ("s1", "does not")))
    cards = [
        el(
            "div.half",
            NO_ATTRIBUTES,
            el("h3", NO_ATTRIBUTES, f"{behaviour}, {budget:g} {NATS}"),
            charts.forest(members),
        )
        for (behaviour, budget), members in groups(rows).items()
    ]
    return Section("drawn", "Behaviours", "By behaviour", [marks, el("div.halves", NO_ATTRIBUTES, *cards)])


def failed(rows: Sequence[Row]) -> Section | None:
    """Cells without a verdict, and why. None when there are none."""
    lines = [(row["behaviour"], row["method"], f"{row['budget']:g}", row["problem"]) for row in rows if row["problem"]]
    if not lines:
        return None
    return Section("failed", "Not judged", "Where a method found nothing to fit",
                   table("Not judged", ("behaviour", "method", "budget", "why"), lines))  # fmt: skip


def asked(command: str | None) -> Section:
    """How to run it again."""
    return Section("asked", "Reproduce", "To reproduce", reproduce(command))


def _sentence(behaviour: str, budget: float, rows: Sequence[Row]) -> str:
    winners = [row for row in rows if row["beats_random"]]
    if not winners:
        best = rows[0]
        return (
            f"{behaviour} at {budget:g} {NATS}: NO method beats all of its placebos; the largest margin is "
            f"{best['method']}'s, {estimate(Interval(**best['margin']), True)}."
        )
    best, tied = winners[0], [row["method"] for row in winners[1:] if _overlap(row, winners[0])]
    also = f"; {', '.join(tied)} {'is' if len(tied) == 1 else 'are'} within its interval" if tied else ""
    return (
        f"{behaviour} at {budget:g} {NATS}: {best['method']} buys most, {estimate(Interval(**best['margin']), True)} "
        f"of margin{also}. {len(winners)} of {len(rows)} methods beat their placebos."
    )


def _overlap(row: Row, best: Row) -> bool:
    return bool(row["margin"]["mean"] >= best["margin"]["low"])


def _cells(row: Row) -> tuple[tuple[Child, object], ...]:
    """What is shown, and what it is sorted by."""
    margin, behaviour, damage = row["margin"], row["behaviour_effect"], row["damage"]
    per_nat, p, beyond = row["per_nat"], row["p_holm"], row.get("over_bias")
    return (
        (row["behaviour"], row["behaviour"]),
        (row["method"], row["method"]),
        (f"{row['budget']:g}", row["budget"]),
        (estimate(Interval(**margin), True), margin["mean"]),
        (MISSING if per_nat is None else number(per_nat["mean"], True), 0 if per_nat is None else per_nat["mean"]),
        (estimate(None if behaviour is None else Interval(**behaviour), True), (behaviour or {"mean": ""})["mean"]),
        (f"{row['beaten']} of {row['of']}", row["beaten"] / max(row["of"], 1)),
        (number(p), "" if p is None else p),
        (estimate(None if beyond is None else Interval(**beyond), True), (beyond or {"mean": ""})["mean"]),
        (f"{number(row['kl'])}{'' if row['reachable'] else ' (not reachable)'}", row["kl"]),
        (estimate(Interval(**damage)), damage["mean"]),
        (row["site"], row["site"]),
        *((number(row[key]), row[key] or 0) for key in ("fit_seconds", "seconds")),
        (row["needs"], row["needs"]),
    )
