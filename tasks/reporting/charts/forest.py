"""Every contender at the same price: mean and interval, the plan on top."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.steering.judge.verdict import Contender
from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, el
from trimtab.tasks.reporting.drawing.numbers import NATS, bounds, estimate, finite, like, number, shorten
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear
from trimtab.tasks.reporting.drawing.svg import (
    LEADING,
    NARROW,
    Frame,
    circle,
    diamond,
    drawing,
    framed,
    hover,
    line,
    rect,
    text,
    wrapped,
    x_axis,
)
from trimtab.tasks.reporting.drawing.verdict import KINDS

PACK_FROM = 5  # more of one kind than this share a row of thin lines; their names are in the table
PITCH = 6.5  # pixels between two of those lines
LABELS, NUMBERS = 212, 358  # pixels left and right of a wide plot
OWN_PRICE = 1.25  # an undosed contender whose KL is off the budget by more than this factor is marked


@dataclass(frozen=True)
class Forest:
    """contenders: in order. value: which of their effects. axis: its name and unit. budget: in nats per
    token, to say who was not dosed to it."""

    contenders: Sequence[Contender]
    value: Callable[[Contender], Interval]
    axis: str
    budget: float
    title: str = "Effect of each contender"


@dataclass(frozen=True)
class Row:
    """One contender, or all of a crowded kind. y: of its middle; height: in pixels."""

    members: tuple[Contender, ...]
    y: float
    height: float

    @property
    def label(self) -> str:
        if len(self.members) == 1:
            return self.members[0].name
        return f"{len(self.members)} × {KINDS.get(self.members[0].kind, self.members[0].kind)}"


def draw(forest: Forest, width: int) -> Html:
    """The chart. Wide: names left, numbers right. Narrow: names above, numbers in hover and table."""
    narrow = width <= NARROW
    rows = _rows(forest.contenders, 40.0 if narrow else 27.0, 16.0 if narrow else 34.0)
    height = rows[-1].y + rows[-1].height / 2 + 52
    frame = _framed(forest.axis, width, height)
    values = bounds(forest.value(c) for c in forest.contenders)
    x = linear([*values, 0.0], frame.left, frame.right, pad=0.05)
    backdrop = [_band(forest, frame, x), x_axis(frame, x, forest.axis, 7), _zero(frame, x)]
    lines = [_row(forest, row, x, narrow) for row in rows]
    columns = [] if narrow else [_heads(frame), [_numbers(forest, row, frame) for row in rows]]
    names = [_name(forest, row, narrow) for row in rows]
    return drawing(frame, f"{forest.title}, mean and interval", backdrop, lines, columns, names)


def _framed(axis: str, width: int, height: float) -> Frame:
    """The plot area, above as many lines as the name of the axis needs."""
    top, right, left = (12, 14, 14) if width <= NARROW else (28, NUMBERS, LABELS)
    extra = LEADING * (len(wrapped(axis, framed(width, height, (top, right, 46, left)))) - 1)
    return framed(width, height + extra, (top, right, 46 + extra, left))


def _rows(contenders: Sequence[Contender], single: float, top: float) -> list[Row]:
    rows, y = [], top
    for members in _grouped(contenders):
        height = single if len(members) == 1 else single - 14 + PITCH * len(members)
        rows.append(Row(members, y + height / 2, height))
        y += height
    return rows


def _grouped(contenders: Sequence[Contender]) -> list[tuple[Contender, ...]]:
    groups: list[tuple[Contender, ...]] = []
    for kind in dict.fromkeys(c.kind for c in contenders):
        members = tuple(c for c in contenders if c.kind == kind)
        groups += [members] if len(members) > PACK_FROM else [(c,) for c in members]
    return groups


def _band(forest: Forest, frame: Frame, x: AxisScale) -> Html | None:
    """The plan's interval through the whole height: what overlaps it is not beaten."""
    plan = next((forest.value(c) for c in forest.contenders if c.kind == "plan"), None)
    if plan is None or len(finite([plan.low, plan.high])) < 2:
        return None
    size = (x(plan.high) - x(plan.low), frame.bottom - frame.top)
    return rect((x(plan.low), frame.top), size, "plan-band")


def _zero(frame: Frame, x: AxisScale) -> Html:
    return line((x(0), frame.top), (x(0), frame.bottom), "zero")


def _row(forest: Forest, row: Row, x: AxisScale, narrow: bool) -> Html | None:
    if len(row.members) == 1:
        y = row.y + (9 if narrow else 0)
        return _mark(row.members[0], forest.value(row.members[0]), x, y)
    start = row.y - row.height / 2 + (26 if narrow else 10)
    marks = [_mark(c, forest.value(c), x, start + PITCH * n, PITCH) for n, c in enumerate(row.members)]
    return el("g.packed", NO_ATTRIBUTES, marks)


def _mark(contender: Contender, value: Interval, x: AxisScale, y: float, room: float = 20.0) -> Html | None:
    if not finite([value.mean]):
        return None
    hollow = "" if contender.reachable else " hollow"
    ends = [x(end) for end in finite([value.low, value.high])]
    whisker = line((ends[0], y), (ends[1], y), f"whisker{hollow}") if len(ends) == 2 else None
    at = (x(value.mean), y)
    dot = diamond(at, 7, "dot" + hollow) if contender.kind == "plan" else circle(at, 4.5, "dot" + hollow)
    left, right = min(at[0], *ends, at[0]) - 8, max(at[0], *ends, at[0]) + 8
    reach = rect((left, y - room / 2), (right - left, room), "hit")
    marks = el("g", {"class": f"k-{_kind(contender)}"}, whisker, dot)
    return hover(tip(contender, value), reach, marks)


def tip(contender: Contender, value: Interval) -> str:
    """All that is known of one contender, in lines."""
    lines = [
        f"{contender.name} ({KINDS.get(contender.kind, contender.kind)})",
        f"effect {estimate(value, signed=True)}",
        f"KL {number(contender.kl)} {NATS}",
    ]
    if contender.difference is not None:
        lines.append(f"plan minus this {estimate(contender.difference, signed=True)}")
    return "\n".join(lines if contender.reachable else [*lines, "could not be dosed to the budget"])


def _name(forest: Forest, row: Row, narrow: bool) -> Html:
    label = shorten(row.label, 40 if narrow else 28)
    y = row.y - row.height / 2 + 13 if narrow else row.y + 4
    style = "strong" if row.members[0].kind == "plan" else "name"
    shape, radius = (diamond, 5.5) if row.members[0].kind == "plan" else (circle, 4.0)
    dot = shape((6, y - 4), radius, f"dot k-{_kind(row.members[0])}")
    facts = ", ".join(filter(None, (_flag(forest, row), f"KL {_spent(forest, row)}")))
    flag = text((366, y), facts, "flag end") if narrow else None
    return el("g", NO_ATTRIBUTES, dot, text((17, y), label, style), flag)


def _heads(frame: Frame) -> Html:
    at = frame.right
    heads = (text((at + 18, 16), "effect", "axis"), text((at + 280, 16), "KL got", "axis end"))
    return el("g", NO_ATTRIBUTES, heads)


def _numbers(forest: Forest, row: Row, frame: Frame) -> Html:
    """The columns at the right; a packed row gives its best member and the range of its prices."""
    best = max(row.members, key=lambda c: (finite([forest.value(c).mean]) or [-math.inf])[0])
    crowd = len(row.members) > 1
    start, end = frame.right + 18, frame.right + 280
    return el(
        "g",
        NO_ATTRIBUTES,
        text((start, row.y - 12), f"best of {len(row.members)}", "flag") if crowd else None,
        text((start, row.y + 4), estimate(forest.value(best), True), "value"),
        text((end, row.y + 4), _spent(forest, row), "value end"),
        text((end + 10, row.y + 4), _flag(forest, row), "flag"),
    )


def _spent(forest: Forest, row: Row) -> str:
    """The KL achieved, or the range of it over a packed row."""
    prices = [c.kl for c in row.members]
    low, high = like(min(prices), forest.budget), like(max(prices), forest.budget)
    return low if low == high else f"{low}–{high}"


def _flag(forest: Forest, row: Row) -> str:
    """Who was not at the same price: not dosable to it, or not dosed at all (a prompt has no strength)."""
    missed = sum(not c.reachable for c in row.members)
    if missed:
        return f"{missed} missed" if len(row.members) > 1 else "unreachable"
    budget = forest.budget
    off = any(c.kl_asked is None and not budget / OWN_PRICE <= c.kl <= budget * OWN_PRICE for c in row.members)
    return "own price" if off else ""


def _kind(contender: Contender) -> str:
    return contender.kind if contender.kind in KINDS else "method"
