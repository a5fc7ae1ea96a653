"""One line per method: its margin with interval, beside 0."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.drawing.html import Html, el
from trimtab.tasks.reporting.drawing.numbers import NATS, bounds, estimate
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear
from trimtab.tasks.reporting.drawing.svg import HALF, circle, drawing, framed, hover, line, text, x_axis

HEIGHT = 34  # of one method's line


def forest(rows: Sequence[Mapping[str, Any]], width: int = HALF) -> Html:
    """Margins of one behaviour at one budget, in the order given."""
    frame = framed(width, 52 + HEIGHT * len(rows), (6, 16, 46, 14))
    x = linear([*bounds([Interval(**row["margin"]) for row in rows]), 0.0], frame.left, frame.right, pad=0.04)
    lines = [_line(row, 6 + HEIGHT * n, x) for n, row in enumerate(rows)]
    zero = line((x(0), frame.top), (x(0), frame.bottom), "zero")
    label = f"margin, {NATS}"
    return drawing(frame, label, x_axis(frame, x, label, 5), lines, zero)


def _line(row: Mapping[str, Any], top: float, x: AxisScale) -> Html:
    margin, y = Interval(**row["margin"]), top + 24
    words = f"{row['method']}: {estimate(margin, True)} {NATS}, {row['beaten']} of {row['of']} placebos beaten"
    marks = [line((x(margin.low), y), (x(margin.high), y), "curve"), circle((x(margin.mean), y), 4, "dot")]
    style = "k-plan" if row["beats_random"] else "s1"
    return el("g", {"class": style}, text((14, top + 13), row["method"], "strong"), hover(words, *marks))
