"""Every contender at the same price: mean and interval, the plan on top."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.steering.judge.verdict import Contender
from trimtab.steering.price.result import Interval
from trimtab.tasks.reporting.html import NO_ATTRIBUTES, Html, el
from trimtab.tasks.reporting.numbers import NATS, bounds, estimate, finite, number, shorten
from trimtab.tasks.reporting.reading import KINDS
from trimtab.tasks.reporting.scale import Scale, linear
from trimtab.tasks.reporting.svg import (
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
    x_axis,
)

PACK_FROM = 5  # more of one kind than this share a row of thin lines; their names are in the table


@dataclass(frozen=True)
class Forest:
    """contenders: in order. value: which of their effects. axis: its name and unit."""

    contenders: Sequence[Contender]
    value: Callable[[Contender], Interval]
    axis: str
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
    rows = _rows(forest.contenders, 40.0 if narrow else 27.0, 34.0)
    height = rows[-1].y + rows[-1].height / 2 + 52
    frame = framed(width, height, (28, 14, 46, 14) if narrow else (28, 330, 46, 196))
    values = bounds(forest.value(c) for c in forest.contenders)
    x = linear([*values, 0.0], frame.left, frame.right, pad=0.05)
    backdrop = [_band(forest, frame, x), x_axis(frame, x, forest.axis, 5), _zero(frame, x)]
    lines = [_row(forest, row, x, narrow) for row in rows]
    columns = [] if narrow else [_heads(frame), [_numbers(forest, row, frame) for row in rows]]
    names = [_name(row, narrow) for row in rows]
    return drawing(frame, f"{forest.title}, mean and interval", backdrop, lines, columns, names)


def _rows(contenders: Sequence[Contender], single: float, top: float) -> list[Row]:
    rows, y = [], top
    for members in _grouped(contenders):
        height = single if len(members) == 1 else single - 18 + 6.5 * len(members)
        rows.append(Row(members, y + height / 2, height))
        y += height
    return rows


def _grouped(contenders: Sequence[Contender]) -> list[tuple[Contender, ...]]:
    groups: list[tuple[Contender, ...]] = []
    for kind in dict.fromkeys(c.kind for c in contenders):
        members = tuple(c for c in contenders if c.kind == kind)
        groups += [members] if len(members) > PACK_FROM else [(c,) for c in members]
    return groups


def _band(forest: Forest, frame: Frame, x: Scale) -> Html | None:
    """The plan's interval through the whole height: what overlaps it is not beaten."""
    plan = next((forest.value(c) for c in forest.contenders if c.kind == "plan"), None)
    if plan is None or len(finite([plan.low, plan.high])) < 2:
        return None
    size = (x(plan.high) - x(plan.low), frame.bottom - frame.top)
    return rect((x(plan.low), frame.top), size, "plan-band")


def _zero(frame: Frame, x: Scale) -> Html:
    return line((x(0), frame.top), (x(0), frame.bottom), "zero")


def _row(forest: Forest, row: Row, x: Scale, narrow: bool) -> Html:
    if len(row.members) == 1:
        y = row.y + (9 if narrow else 0)
        return _mark(row.members[0], forest.value(row.members[0]), x, y)
    start = row.y - row.height / 2 + (24 if narrow else 8)
    marks = [_mark(c, forest.value(c), x, start + 6.5 * n) for n, c in enumerate(row.members)]
    return el("g.packed", NO_ATTRIBUTES, marks)


def _mark(contender: Contender, value: Interval, x: Scale, y: float) -> Html | None:
    if not finite([value.mean]):
        return None
    hollow = "" if contender.reachable else " hollow"
    ends = [x(end) for end in finite([value.low, value.high])]
    whisker = line((ends[0], y), (ends[1], y), f"whisker{hollow}") if len(ends) == 2 else None
    shape = diamond if contender.kind == "plan" else circle
    radius = 7.0 if contender.kind == "plan" else 4.5
    reach = rect(
        (min([x(value.mean), *ends]) - 8, y - 9),
        (max([x(value.mean), *ends]) - min([x(value.mean), *ends]) + 16, 18),
        "hit",
    )
    marks = el(
        "g", {"class": f"k-{_kind(contender)}"}, whisker, shape((x(value.mean), y), radius, f"dot{hollow}")
    )
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


def _name(row: Row, narrow: bool) -> Html:
    label = shorten(row.label, 44 if narrow else 28)
    y = row.y - row.height / 2 + 13 if narrow else row.y + 4
    style = "strong" if row.members[0].kind == "plan" else "name"
    dot = circle((6, y - 4), 4, f"dot k-{_kind(row.members[0])}")
    missed = sum(not c.reachable for c in row.members)
    flag = text((366, y), f"{missed} unreachable" if len(row.members) > 1 else "unreachable", "flag end")
    return el("g", NO_ATTRIBUTES, dot, text((17, y), label, style), flag if narrow and missed else None)


def _heads(frame: Frame) -> Html:
    at = frame.right
    words = ((at + 22, "effect", ""), (at + 232, "KL got", "end"), (at + 326, "", "end"))
    return el(
        "g", NO_ATTRIBUTES, [text((x, 16), word, f"axis {side}".strip()) for x, word, side in words if word]
    )


def _numbers(forest: Forest, row: Row, frame: Frame) -> Html:
    """The two columns at the right; a packed row gives its best member and the range of its prices."""
    best = max(row.members, key=lambda c: (finite([forest.value(c).mean]) or [-1e30])[0])
    crowd = len(row.members) > 1
    effect = f"best {estimate(forest.value(best), True)}" if crowd else estimate(forest.value(best), True)
    prices = finite(c.kl for c in row.members)
    spread = crowd and prices and number(min(prices)) != number(max(prices))
    price = f"{number(min(prices))}–{number(max(prices))}" if spread else number(best.kl)
    missed = sum(not c.reachable for c in row.members)
    flag = f"{missed} unreachable" if crowd else "unreachable"
    return el(
        "g",
        NO_ATTRIBUTES,
        text((frame.right + 22, row.y + 4), effect, "value"),
        text((frame.right + 232, row.y + 4), price, "value end"),
        text((frame.right + 244, row.y + 4), flag, "flag") if missed else None,
    )


def _kind(contender: Contender) -> str:
    return contender.kind if contender.kind in KINDS else "method"
