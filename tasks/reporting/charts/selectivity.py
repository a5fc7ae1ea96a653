"""What each contender does on wanted and on unwanted prompts, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.steering.model.site import Site
from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.drawing.html import Html, el
from trimtab.tasks.reporting.drawing.numbers import bounds, estimate
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
    x_axis,
    y_axis,
)

SIDES = (("wanted", "k-plan"), ("unwanted", "s1"))


def dots(contenders: Sequence[Mapping[str, Any]], quantity: str, label: str, width: int = HALF) -> Html:
    """Two dots with intervals a contender: where the plan is wanted, and where it is not."""
    frame = framed(width, 52 + 54 * len(contenders), (6, 16, 46, 14))
    values = [_interval(one, side, quantity) for one in contenders for side, _ in SIDES]
    x = linear([*bounds(values), 0.0], frame.left, frame.right, pad=0.04)
    rows = [_row(one, quantity, 6 + n * 54, x) for n, one in enumerate(contenders)]
    zero = line((x(0), frame.top), (x(0), frame.bottom), "zero")
    return drawing(frame, label, x_axis(frame, x, label, 5), rows, zero)


def by_block(values: Mapping[str, float], marked: str, width: int = HALF) -> Html:
    """AUROC of the probe at each site, by block."""
    values = dict(sorted(values.items(), key=lambda item: _depth(item[0])))
    frame = framed(width, 220, (12, 16, 46, 52))
    depths = [float(_depth(site)[0]) for site in values]
    x = linear(depths, frame.left, frame.right, pad=0.04)
    y = linear([0.5, 1.0, *values.values()], frame.bottom, frame.top)
    points = [(x(depth), y(value)) for depth, value in zip(depths, values.values(), strict=True)]
    marks = [
        hover(f"{site}: {value:.3f}", diamond(at, 6, "dot") if site == marked else circle(at, 3, "dot"))
        for at, (site, value) in zip(points, values.items(), strict=True)
    ]
    curve = el("g", {"class": "k-plan"}, polyline(points, "curve"), marks)
    axes = (x_axis(frame, x, "site read, by block", 6), y_axis(frame, y, "AUROC, cross-validated", 5))
    return drawing(frame, "How well each site tells the prompts apart", *axes, curve)


def _depth(site: str) -> tuple[int, str]:
    """Names come sorted as text from the catalog: `resid_post.9` after `resid_post.29`."""
    parsed = Site.parse(site)
    return -1 if parsed.block is None else parsed.block, parsed.point


def _row(one: Mapping[str, Any], quantity: str, top: float, x: AxisScale) -> Html:
    marks = [_mark(one, side, style, quantity, (top + 22 + 14 * n, x)) for n, (side, style) in enumerate(SIDES)]
    return el("g", {}, text((x.start, top + 12), str(one["name"]), "name"), marks)


def _mark(one: Mapping[str, Any], side: str, style: str, quantity: str, at: tuple[float, AxisScale]) -> Html:
    value, (y, x) = _interval(one, side, quantity), at
    centre = (x(value.mean), y)
    dot = diamond(centre, 6, "dot") if side == "wanted" else circle(centre, 4.5, "dot")
    whisker = line((x(value.low), y), (x(value.high), y), "whisker")
    return hover(f"{one['name']}, {side}: {estimate(value)}", el("g", {"class": style}, whisker, dot))


def _interval(one: Mapping[str, Any], side: str, quantity: str) -> Interval:
    return Interval(**one[side][quantity])
