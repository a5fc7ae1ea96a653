"""Effect by block, and by head: where in the model the candidates of the search stand."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.steering.errors import BadSite, UnknownName
from trimtab.steering.judge.verdict import SitePoint
from trimtab.steering.model.site import Site
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, el
from trimtab.tasks.reporting.drawing.numbers import NATS, finite, number
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear
from trimtab.tasks.reporting.drawing.svg import (
    Frame,
    circle,
    drawing,
    framed,
    hover,
    polyline,
    rect,
    text,
    y_axis,
    zero_line,
)

SERIES_COLOURS = 6


@dataclass(frozen=True)
class SearchedSite:
    """A point of the search with its site read. in_plan: it is the one the plan uses."""

    point: SitePoint
    site: Site
    in_plan: bool

    @property
    def tip(self) -> str:
        mark = " (chosen)" if self.in_plan else ""
        p = self.point
        return (
            f"{p.site}{mark}\nmargin {number(p.margin, signed=True)} {NATS}\n"
            f"KL {number(p.kl)} {NATS}, strength {number(p.strength)}\n"
            f"{f'measured on {p.pairs} pairs' if p.pairs else 'forecast'}"
        )


def candidates(search: Sequence[SitePoint], acting: str) -> list[SearchedSite]:
    """Those that name one block and have a finite margin. acting: where the plan acts, one site or several, however
    separated."""
    names = set(re.findall(r"[a-z_]+(?:\.\d+)+", acting)) or {acting}
    points = []
    for point in search:
        site = _read(point.site)
        if site is not None and site.block is not None and finite([point.margin]):
            points.append(SearchedSite(point, site, point.site in names))
    return points


def _read(name: str) -> Site | None:
    try:
        return Site.parse(name)
    except (BadSite, UnknownName):
        return None


def by_block(points: Sequence[SearchedSite], width: int) -> Html:
    """One line per kind of place, margin over block; the chosen site has a ring and its name, forecasts are hollow."""
    frame = framed(width, 300, (34, 16, 46, 52))
    blocks = [float(c.site.block or 0) for c in points]
    x = linear(blocks, frame.left, frame.right, pad=0.03)
    y = linear([c.point.margin for c in points] + [0.0], frame.bottom, frame.top, pad=0.1)
    kinds = series(points)
    lines = [_series([c for c in points if c.site.point == kind], n, x, y) for n, kind in enumerate(kinds)]
    rings = [_ring(c, frame, x, y) for c in points if c.in_plan]
    axes = [_blocks_axis(frame, x, blocks), y_axis(frame, y, f"margin, {NATS}"), zero_line(frame, y)]
    return drawing(frame, f"Effect of each of {len(points)} candidate sites over blocks", axes, lines, rings)


def series(points: Sequence[SearchedSite]) -> list[str]:
    """Kinds of place in the order of their colours: the chosen one has the plan's."""
    own = {c.site.point for c in points if c.in_plan}
    return sorted({c.site.point for c in points}, key=lambda point: (point not in own, point))


def _blocks_axis(frame: Frame, x: AxisScale, blocks: Sequence[float]) -> Html:
    # between two blocks there is nothing, so ticks are whole numbers
    whole = AxisScale(min(blocks), max(max(blocks), min(blocks) + 1), frame.left, frame.right)
    room = max(2, int((frame.right - frame.left) / 55))
    ticks = sorted({round(tick) for tick in whole.ticks(room) if min(blocks) <= round(tick) <= max(blocks)})
    labels = [text((x(tick), frame.bottom + 17), str(tick), "tick mid") for tick in ticks]
    name = text(((frame.left + frame.right) / 2, frame.bottom + 36), "block, counted from 0", "axis mid")
    return el("g", NO_ATTRIBUTES, labels, name)


def _series(points: Sequence[SearchedSite], number_of_line: int, x: AxisScale, y: AxisScale) -> Html:
    colour = f"s{number_of_line % SERIES_COLOURS}"
    ordered = sorted(points, key=lambda c: c.site.block or 0)
    at = [(x(c.site.block or 0), y(c.point.margin)) for c in ordered]
    marks = [hover(c.tip, circle(xy, 10, "hit"), _dot(c, xy)) for c, xy in zip(ordered, at, strict=True)]
    return el("g", {"class": colour}, polyline(at, "curve"), marks)


def _dot(candidate: SearchedSite, at: tuple[float, float]) -> Html:
    """Filled where the margin was measured, smaller and hollow where it was forecast."""
    return circle(at, 4.5, "dot") if candidate.point.pairs else circle(at, 3, "dot hollow")


def _ring(c: SearchedSite, frame: Frame, x: AxisScale, y: AxisScale) -> Html:
    at = (x(c.site.block or 0), y(c.point.margin))
    side = "end" if at[0] > (frame.left + frame.right) / 2 else ""
    label = text((at[0] + (-13 if side else 13), at[1] - 10), f"chosen: {c.point.site}", f"strong {side}".strip())
    return hover(c.tip, circle(at, 8, "ring"), label)


def by_head(points: Sequence[SearchedSite], width: int) -> Html:
    """Heads down, blocks across; full colour is the largest effect, the other colour the wrong direction."""
    blocks = sorted({c.site.block or 0 for c in points})
    heads = sorted({c.site.head or 0 for c in points})
    cell = min((width - 62) / len(blocks), 26.0)
    frame = framed(width, 34 + cell * len(heads) + 46, (34, 10, 46, 52))
    largest = max(abs(c.point.margin) for c in points) or 1.0
    cells = [_cell(c, _corner(c, blocks, heads, frame, cell), cell, largest) for c in points]
    return drawing(frame, f"Effect of each of {len(points)} heads", cells, _head_labels(frame, blocks, heads, cell))


def _corner(c: SearchedSite, blocks: list[int], heads: list[int], frame: Frame, cell: float) -> tuple[float, float]:
    return frame.left + blocks.index(c.site.block or 0) * cell, frame.top + heads.index(c.site.head or 0) * cell


def _cell(c: SearchedSite, corner: tuple[float, float], side: float, largest: float) -> Html:
    style = "cell for" if c.point.margin >= 0 else "cell against"
    share = abs(c.point.margin) / largest
    box = el("g", {"opacity": f"{max(share, 0.02):.2f}"}, rect(corner, (side - 1, side - 1), style, 2))
    mark = rect((corner[0] - 0.5, corner[1] - 0.5), (side, side), "cell-ring", 3) if c.in_plan else None
    return hover(c.tip, box, mark)


def _head_labels(frame: Frame, blocks: list[int], heads: list[int], cell: float) -> Html:
    every_block, every_head = max(1, round(28 / cell)), max(1, round(13 / cell))
    across = [
        text((frame.left + (n + 0.5) * cell, frame.bottom + 15), str(b), "tick mid")
        for n, b in enumerate(blocks)
        if n % every_block == 0
    ]
    down = [
        text((frame.left - 8, frame.top + (n + 0.5) * cell + 4), str(h), "tick end")
        for n, h in enumerate(heads)
        if n % every_head == 0
    ]
    names = [
        text((2, frame.top - 14), "head", "axis"),
        text((frame.left, frame.bottom + 36), "block", "axis"),
    ]
    return el("g", NO_ATTRIBUTES, across, down, names)
