"""The few shapes that charts are made of. Colours are classes: light, dark and print are one stylesheet.

Why not plotly: the only bundle it ships is 4.8 MB, which every published report would carry, and its charts
need a script to be seen at all. These are some kilobytes each, print, follow the theme, and still have hover.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, Html, el
from trimtab.tasks.reporting.drawing.numbers import tick
from trimtab.tasks.reporting.drawing.scale import AxisScale

WIDE, NARROW, HALF = 900, 380, 440
LETTER = 6.4  # pixels of one letter of an axis' name, on average and rounded up
LEADING = 15  # pixels from one line of an axis' name to the next


@dataclass(frozen=True)
class Frame:
    """The plot area inside a drawing of width x height, in pixels."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float


def framed(width: float, height: float, margins: tuple[float, float, float, float]) -> Frame:
    """margins: top, right, bottom, left, as in CSS."""
    top, right, bottom, left = margins
    return Frame(width, height, left, width - right, top, height - bottom)


def drawing(frame: Frame, label: str, *children: Child) -> Html:
    """The svg element. label: what a screen reader says instead of it."""
    box = f"0 0 {_px(frame.width)} {_px(frame.height)}"
    return el("svg", {"viewBox": box, "role": "img", "aria-label": label}, *children)


def figure(draw: Callable[[int], Html], *below: Child) -> Html:
    """The same chart laid out for a desk and for a phone; the stylesheet shows one of them."""
    wide, narrow = el("div.wide", NO_ATTRIBUTES, draw(WIDE)), el("div.narrow", NO_ATTRIBUTES, draw(NARROW))
    return el("figure", NO_ATTRIBUTES, wide, narrow, *below)


def line(a: tuple[float, float], b: tuple[float, float], style: str) -> Html:
    """A straight line from a to b."""
    ends = {"x1": _px(a[0]), "y1": _px(a[1]), "x2": _px(b[0]), "y2": _px(b[1])}
    return el("line", {"class": style, **ends})


def rect(corner: tuple[float, float], size: tuple[float, float], style: str, rounded: float = 0) -> Html:
    """A box by its upper left corner; a negative size is drawn as nothing."""
    box = {
        "x": _px(corner[0]),
        "y": _px(corner[1]),
        "width": _px(max(size[0], 0)),
        "height": _px(max(size[1], 0)),
    }
    return el("rect", {"class": style, **box, "rx": _px(rounded) if rounded else None})


def circle(at: tuple[float, float], radius: float, style: str) -> Html:
    """A disc."""
    return el("circle", {"class": style, "cx": _px(at[0]), "cy": _px(at[1]), "r": _px(radius)})


def diamond(at: tuple[float, float], radius: float, style: str) -> Html:
    """A square on its corner: the plan, in every chart, so that colour is never the only sign."""
    (x, y), r = at, radius
    corners = ((x, y - r), (x + r, y), (x, y + r), (x - r, y))
    return el("polygon", {"class": style, "points": _points(corners)})


def polyline(points: Sequence[tuple[float, float]], style: str) -> Html:
    """Straight segments through the points."""
    return el("polyline", {"class": style, "points": _points(points)})


def polygon(points: Sequence[tuple[float, float]], style: str) -> Html:
    """A closed, filled outline."""
    return el("polygon", {"class": style, "points": _points(points)})


def text(at: tuple[float, float], words: str, style: str = "") -> Html:
    """Words; the style chooses the anchor: `end`, `mid` or, by default, the start."""
    return el("text", {"class": style or None, "x": _px(at[0]), "y": _px(at[1])}, words)


def hover(tip: str, *shapes: Child) -> Html:
    """Shapes with a tooltip: native without scripts, drawn by the page's script with them."""
    return el("g.tip", NO_ATTRIBUTES, el("title", NO_ATTRIBUTES, tip), *shapes)


def x_axis(frame: Frame, scale: AxisScale, label: str, count: int = 6) -> Html:
    """Grid lines, tick labels and the name of a horizontal axis."""
    parts: list[Html] = []
    for value in scale.ticks(count):
        x = scale(value)
        parts.append(line((x, frame.top), (x, frame.bottom), "grid"))
        parts.append(text((x, frame.bottom + 17), tick(value), "tick mid"))
    middle = (frame.left + frame.right) / 2
    for n, words in enumerate(wrapped(label, frame)):
        parts.append(text((middle, frame.bottom + 36 + LEADING * n), words, "axis mid"))
    return el("g", NO_ATTRIBUTES, parts)


def wrapped(label: str, frame: Frame) -> list[str]:
    """The name of a horizontal axis in lines that fit the drawing, centred below the plot."""
    middle = (frame.left + frame.right) / 2
    room = 2 * min(middle, frame.width - middle)
    return textwrap.wrap(label, int(room / LETTER))


def y_axis(frame: Frame, scale: AxisScale, label: str, count: int = 5) -> Html:
    """The same for a vertical axis; its name stands above it, to be read without turning the head."""
    parts: list[Html] = [text((2, frame.top - 14), label, "axis")]
    for value in scale.ticks(count):
        y = scale(value)
        parts.append(line((frame.left, y), (frame.right, y), "grid"))
        parts.append(text((frame.left - 8, y + 4), tick(value), "tick end"))
    return el("g", NO_ATTRIBUTES, parts)


def zero_line(frame: Frame, scale: AxisScale) -> Html | None:
    """A stronger horizontal line where nothing changes, if that is in view."""
    if not scale.low <= 0 <= scale.high:
        return None
    return line((frame.left, scale(0)), (frame.right, scale(0)), "zero")


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_px(x)},{_px(y)}" for x, y in points)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def half_figure(name: str, chart: Html, caption: Child = None) -> Html:
    """A chart of half the page's width with a title above and a caption below."""
    below = el("figcaption", NO_ATTRIBUTES, caption) if caption else None
    return el("figure.half", {}, el("h3", {}, name), el("div", {"style": f"max-width:{HALF + 40}px"}, chart), below)
