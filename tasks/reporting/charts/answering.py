"""Tokens against accuracy: the plan at several strengths, the prompt, and the base model's answers cut off."""

from collections.abc import Sequence

from trimtab.steering.judge.verdict import Answering, AnsweringPoint
from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.drawing.html import Html, el
from trimtab.tasks.reporting.drawing.numbers import bounds, estimate, number, percent
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear, positive
from trimtab.tasks.reporting.drawing.svg import (
    HALF,
    circle,
    diamond,
    drawing,
    framed,
    hover,
    line,
    polyline,
    text,
    x_axis,
    y_axis,
)

CUT = "random"  # drawn like a placebo: what mere shortness does


def draw(answering: Answering, width: int) -> Html:
    """Share of answers still right over their mean length. Whiskers are intervals; the hollow line is the base model's
    own answers cut to the same lengths."""
    wide = width > HALF
    frame = framed(width, 340 if wide else 300, (40, 24, 46, 52))
    lengths = [one.tokens.mean for one in answering.points] + [answering.tokens]
    x = positive([*lengths, 0.0], frame.left, frame.right)
    shares = bounds(interval for one in answering.points for interval in (one.kept, one.cut))
    y = linear([*shares, 1.0], frame.bottom, frame.top)
    axes = [x_axis(frame, x, "tokens of an answer, mean"), y_axis(frame, y, "share still right")]
    cut = sorted(answering.points, key=lambda one: one.tokens.mean)
    plans = sorted((one for one in answering.points if one.kind == "plan"), key=lambda one: one.factor or 0.0)
    base = [(x(answering.tokens), y(1.0))]
    lines = [_line([(one, one.cut) for one in cut], CUT, x, y), _line([(one, one.kept) for one in plans], "plan", x, y)]
    prompts = [_mark(one, one.kept, one.kind, x, y) for one in answering.points if one.kind != "plan"]
    own = el(
        "g", {"class": "k-method"}, hover(_own(answering), circle(base[0], 10, "hit"), circle(base[0], 4.5, "dot"))
    )
    label = text((base[0][0] - 8, base[0][1] - 9), "unsteered", "name end")
    return drawing(frame, "Answers still right over their length", axes, lines, prompts, own, label if wide else None)


def _line(points: Sequence[tuple[AnsweringPoint, Interval]], kind: str, x: AxisScale, y: AxisScale) -> Html:
    at = [(x(one.tokens.mean), y(value.mean)) for one, value in points]
    marks = [_mark(one, value, kind, x, y) for one, value in points]
    return el("g", {"class": f"k-{kind}"}, polyline(at, "curve"), marks)


def _mark(one: AnsweringPoint, value: Interval, kind: str, x: AxisScale, y: AxisScale) -> Html:
    at = (x(one.tokens.mean), y(value.mean))
    shape, radius = (diamond, 5.5) if kind == "plan" else (circle, 4.0)
    factor = text((at[0] + 9, at[1] - 7), f"{one.factor:g}×", "name") if kind == "plan" and one.factor else None
    whisker = line((at[0], y(value.low)), (at[0], y(value.high)), "whisker")
    return el(
        "g",
        {"class": f"k-{kind}"},
        hover(_tip(one, value, kind), circle(at, 10, "hit"), whisker, shape(at, radius, "dot"), factor),
    )


def _tip(one: AnsweringPoint, value: Interval, kind: str) -> str:
    who = f"base answers cut to the length of: {one.name}" if kind == CUT else one.name
    return f"{who}\nright {estimate(value)}\n{number(one.tokens.mean)} tokens, saved {estimate(one.saved, signed=True)}"


def _own(answering: Answering) -> str:
    return f"the base model's own right answers\n{number(answering.tokens)} tokens\n{percent(1.0)} right, by choice"
