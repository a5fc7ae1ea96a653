"""The versions of a name over time: a number of each with its interval, in the order in which they were published."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.tasks.reporting.drawing.html import Html, el
from trimtab.tasks.reporting.drawing.numbers import NATS, number
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear
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
    y_axis,
    zero_line,
)

MOST_LABELS = 12
Point = tuple[int, Mapping[str, Any] | float, bool]  # version, number with or without an interval, named by an alias


def over_versions(points: Sequence[Point], label: str, width: int = HALF) -> Html:
    """One mark per version; a diamond where an alias names it. label: of the number, which is in nats per token."""
    frame = framed(width, 260, (34, 16, 34, 52))
    y = linear([0.0, *(end for _, value, _ in points for end in _ends(value))], frame.bottom, frame.top)
    x = linear([float(n) for n in range(len(points))], frame.left + 14, frame.right - 8)
    centres = [(x(n), y(_ends(value)[1])) for n, (_, value, _) in enumerate(points)]
    marks = [_mark(point, x(n), y, label) for n, point in enumerate(points)]
    step = -(-len(points) // MOST_LABELS)
    names = [
        text((x(n), frame.bottom + 17), f"@{version}", "tick mid")
        for n, (version, _, _) in enumerate(points)
        if n % step == 0
    ]
    line_between = polyline(centres, "curve faint") if len(centres) > 1 else None
    axes = [y_axis(frame, y, f"{label}, {NATS}"), zero_line(frame, y)]
    return drawing(frame, f"{label} of every version", axes, names, el("g.k-plan", {}, line_between, marks))


def _mark(point: Point, x: float, y: AxisScale, label: str) -> Html:
    version, value, named = point
    low, mean, high = _ends(value)
    words = f"@{version}: {label} {number(mean)} [{number(low)}, {number(high)}] {NATS}"
    shape, radius = (diamond, 6.0) if named else (circle, 4.0)
    return hover(words, line((x, y(low)), (x, y(high)), "whisker"), shape((x, y(mean)), radius, "dot"))


def _ends(value: Mapping[str, Any] | float) -> tuple[float, float, float]:
    """(low, mean, high)."""
    if isinstance(value, Mapping):
        return float(value["low"]), float(value["mean"]), float(value["high"])
    return float(value), float(value), float(value)
