"""Effect against KL: what a larger budget buys, for the plan and for its placebos."""

from collections.abc import Sequence

from trimtab.steering.judge.verdict import CurvePoint, Verdict
from trimtab.tasks.reporting.drawing.html import Html, el
from trimtab.tasks.reporting.drawing.numbers import NATS, bounds, estimate, finite, number, shorten
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear, positive
from trimtab.tasks.reporting.drawing.svg import (
    HALF,
    Frame,
    circle,
    diamond,
    drawing,
    framed,
    hover,
    line,
    polygon,
    polyline,
    text,
    x_axis,
    y_axis,
    zero_line,
)
from trimtab.tasks.reporting.drawing.verdict import KINDS, kind_of

LABELS = 170  # pixels right of a wide plot, for the names of the lines
SPACING = 16.0
MOST_NAMES = 8

Line = tuple[str, str, list[CurvePoint]]


def draw(verdict: Verdict, width: int) -> Html:
    """One line per contender over its achieved KL, bands are intervals; the dashed line is the budget."""
    points = drawable(verdict.curve)
    wide = width > HALF
    frame = framed(width, 360 if wide else 320, (40, LABELS if wide else 16, 46, 52))
    budgets = finite([verdict.dose.asked])
    x = positive([p.kl for p in points] + budgets, frame.left, frame.right)
    y = linear(bounds(p.margin for p in points) + [0.0], frame.bottom, frame.top)
    lines = sorted(_lines(verdict, points), key=lambda one: (one[1] == "plan", one[0]))
    axes = [
        x_axis(frame, x, f"KL(steered ‖ base), {NATS}"),
        y_axis(frame, y, f"margin, {NATS}"),
        zero_line(frame, y),
    ]
    budget = [_budget(frame, x(value), value) for value in budgets]
    drawn = [[_line(one, x, y) for one in lines], _names(lines, frame, y) if wide else None]
    return drawing(frame, "Effect against KL for each contender", axes, budget, drawn)


def _names(lines: Sequence[Line], frame: Frame, y: AxisScale) -> Html:
    """Each line's name beside its end, pushed down where two would overlap; in a crowd, the plan's alone."""
    named = lines if len(lines) <= MOST_NAMES else [one for one in lines if one[1] == "plan"]
    labels, last = [], frame.top - SPACING
    for name, kind, points in sorted(named, key=lambda one: y(one[2][-1].margin.mean)):
        last = max(y(points[-1].margin.mean), last + SPACING)
        style = "strong" if kind == "plan" else "name"
        shape, radius = (diamond, 5.5) if kind == "plan" else (circle, 4.0)
        dot = shape((frame.right + 12, last), radius, f"dot k-{kind}")
        labels += [dot, text((frame.right + 22, last + 4), shorten(name, 22), style)]
    return el("g", {}, labels)


def kinds(verdict: Verdict) -> set[str]:
    """The kinds that have a line."""
    return {kind for _, kind, _ in _lines(verdict, drawable(verdict.curve))}


def drawable(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Points with a finite place on both axes."""
    return [point for point in curve if len(finite([point.kl, point.margin.mean])) == 2]


def _lines(verdict: Verdict, points: Sequence[CurvePoint]) -> list[Line]:
    names = dict.fromkeys(p.contender for p in points)
    return [
        (name, _kind(verdict, name), sorted((p for p in points if p.contender == name), key=lambda p: p.kl))
        for name in names
    ]


def _kind(verdict: Verdict, name: str) -> str:
    kind = "plan" if name in (verdict.plan, "plan") else kind_of(verdict, name)
    return kind if kind in KINDS else "method"


def _line(one: Line, x: AxisScale, y: AxisScale) -> Html:
    name, kind, points = one
    at = [(x(p.kl), y(p.margin.mean)) for p in points]
    framed_points = [p for p in points if len(finite([p.margin.low, p.margin.high])) == 2]
    upper = [(x(p.kl), y(p.margin.high)) for p in framed_points]
    lower = [(x(p.kl), y(p.margin.low)) for p in reversed(framed_points)]
    shape, radius = (diamond, 5.5) if kind == "plan" else (circle, 3.5)
    marks = [
        hover(_tip(name, p), circle(xy, 10, "hit"), shape(xy, radius, "dot")) for p, xy in zip(points, at, strict=True)
    ]
    return el("g", {"class": f"k-{kind}"}, polygon(upper + lower, "band"), polyline(at, "curve"), marks)


def _tip(name: str, point: CurvePoint) -> str:
    return (
        f"{shorten(name, 60)}\nmargin {estimate(point.margin, signed=True)} {NATS}\n"
        f"KL {number(point.kl)} {NATS}, strength {number(point.strength)}"
    )


def _budget(frame: Frame, x: float, nats: float) -> Html:
    label = text((x, frame.top - 5), f"budget {number(nats)}", "flag mid" if x < frame.right - 40 else "flag end")
    return hover(f"budget asked: {number(nats)} {NATS}", line((x, frame.top), (x, frame.bottom), "budget"), label)
