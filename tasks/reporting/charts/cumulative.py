"""Ablation curves: the metric as more heads are taken out, or left alone, with the band of random sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.tasks.reporting.drawing.html import Html, el
from trimtab.tasks.reporting.drawing.numbers import finite, number
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear
from trimtab.tasks.reporting.drawing.svg import (
    HALF,
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


def draw(curve: Mapping[str, Any], width: int, label: str) -> Html:
    """curve: sizes, mean, low, high, band_low, band_high, lists of one length; see `tasks/heads/ablate.py`."""
    frame = framed(width, 300 if width > HALF else 270, (36, 16, 46, 52))
    sizes = [float(k) for k in curve["sizes"]]
    values = finite([x for name in ("mean", "low", "high", "band_low", "band_high") for x in curve[name]])
    x, y = linear(sizes, frame.left, frame.right, pad=0.03), linear([*values, 0.0], frame.bottom, frame.top)
    axes = [x_axis(frame, x, "heads, in the order of the ranking"), y_axis(frame, y, "metric, nats")]
    band = el("g", {"class": "k-random"}, _area(sizes, curve["band_low"], curve["band_high"], x, y))
    at = [(x(k), y(m)) for k, m in zip(sizes, curve["mean"], strict=True)]
    marks = [
        hover(_tip(k, curve, n), circle(xy, 10, "hit"), diamond(xy, 5, "dot"))
        for n, (k, xy) in enumerate(zip(sizes, at, strict=True))
    ]
    own = el("g", {"class": "k-plan"}, _area(sizes, curve["low"], curve["high"], x, y), polyline(at, "curve"), marks)
    whole = y(curve["mean"][0]) if sizes[0] == 0 else None
    level = None if whole is None else line((frame.left, whole), (frame.right, whole), "zero")
    name = text((frame.right, frame.top - 14), label, "strong end")
    return drawing(frame, label, axes, zero_line(frame, y), level, band, own, name)


def _area(sizes: Sequence[float], low: Sequence[Any], high: Sequence[Any], x: AxisScale, y: AxisScale) -> Html | None:
    edges = [(x(k), y(a), y(b)) for k, a, b in zip(sizes, low, high, strict=True) if a is not None and b is not None]
    if len(edges) < 2:
        return None
    return polygon([(at, top) for at, _, top in edges] + [(at, bottom) for at, bottom, _ in reversed(edges)], "band")


def _tip(k: float, curve: Mapping[str, Any], n: int) -> str:
    low, high = curve["band_low"][n], curve["band_high"][n]
    beside = "" if low is None else f"\n90% of random sets: {number(low)} to {number(high)}"
    mean, ends = number(curve["mean"][n]), (curve["low"][n], curve["high"][n])
    return f"{int(k)} heads: {mean} [{number(ends[0])}, {number(ends[1])}] nats{beside}"
