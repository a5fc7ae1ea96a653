"""Where the nats go: a histogram of KL over tokens. Both axes are logarithmic: costs span five decades."""

from dataclasses import dataclass

from trimtab.steering.price.result import KL
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, el
from trimtab.tasks.reporting.drawing.numbers import NATS, finite, number, percent, plural
from trimtab.tasks.reporting.drawing.scale import AxisScale
from trimtab.tasks.reporting.drawing.svg import HALF, Frame, drawing, framed, hover, line, rect, text, x_axis, y_axis

BINS = 40
DECADES = 5  # below the largest token by more than this, a cost is drawn at the left edge
NAME = 80  # pixels that the longest name takes: none begins left of the plot
GUTTER = 4  # rows of names above the plot: the same in every histogram, so that two of them line up


@dataclass(frozen=True)
class TokenCosts:
    """kl: the divergence. budget: the line to hold it against (None: it has none)."""

    kl: KL
    budget: float | None

    @property
    def values(self) -> list[float]:
        return finite(self.kl.per_token)

    @property
    def marks(self) -> list[tuple[str, float, str]]:
        """Name, place, style of the vertical lines."""
        kl = self.kl
        named = [("mean", kl.mean.mean, "mean"), ("p95", kl.p95, "p95"), ("max", kl.max, "max")]
        budget = [] if self.budget is None else [("budget", self.budget, "budget")]
        drawn = [mark for mark in [*budget, *named] if finite([mark[1]])]
        return sorted(drawn, key=lambda mark: mark[1])


def draw(tokens: TokenCosts, width: int = HALF) -> Html:
    """The histogram, with budget, mean, 95th percentile and maximum named above it."""
    marks, values = tokens.marks, tokens.values
    frame = framed(width, 340, (36 + 15 * GUTTER, 14, 46, 46))
    x = _costs([*values, *(place for _, place, _ in marks)], frame)
    counts = _count(values, x)
    # half a token as the floor gives a bar of one token a height
    y = AxisScale(0.6, max(counts) * 1.3, frame.bottom, frame.top, log=True)
    bars = [_bar(n, count, (x, y), frame, len(values)) for n, count in enumerate(counts) if count]
    axes = [x_axis(frame, x, f"KL of one token, {NATS} (log)", 5), _axis(frame, y)]
    lines = [_mark(mark, GUTTER - 1 - n, frame, x) for n, mark in enumerate(marks)]
    name = f"Histogram of KL over {len(values)} tokens, both axes logarithmic"
    return drawing(frame, name, axes, bars, lines)


def _costs(values: list[float], frame: Frame) -> AxisScale:
    above = [value for value in values if value > 0] or [1.0]
    high = max(above) * 1.15
    low = max(min(above) / 1.15, high / 10**DECADES)
    return AxisScale(low, high, frame.left, frame.right, log=True)


def _axis(frame: Frame, y: AxisScale) -> Html:
    whole = AxisScale(1.0, max(y.high, 1.2), y(1.0), y.end, log=True)
    return el("g", NO_ATTRIBUTES, text((2, 14), "tokens (log)", "axis"), y_axis(frame, whole, "", 4))


def _count(values: list[float], x: AxisScale) -> list[int]:
    counts = [0] * BINS
    for value in values:
        counts[min(int(x.share(value) * BINS), BINS - 1)] += 1
    return counts


def _bar(n: int, count: int, scales: tuple[AxisScale, AxisScale], frame: Frame, total: int) -> Html:
    x, y = scales
    low, high = x.at(n / BINS), x.at((n + 1) / BINS)
    span = f"{number(low)} to {number(high)} {NATS}" if n else f"{number(high)} {NATS} or less"
    tip = f"{span}\n{plural(count, 'token')}, {percent(count / total)} of those drawn"
    width = x(high) - x(low)
    box = rect((x(low) + 0.5, y(count)), (width - 1, frame.bottom - y(count)), "bar")
    return hover(tip, rect((x(low), frame.top), (width, frame.bottom - frame.top), "hit"), box)


def _mark(mark: tuple[str, float, str], n: int, frame: Frame, x: AxisScale) -> Html:
    name, value, style = mark
    at, y = x(value), 32 + 15 * n
    # names stand left of their lines, largest on top: the lines of smaller values begin below them and cross none
    label = text((max(at - 5, frame.left + NAME), y + 4), f"{name} {number(value)}", "flag end")
    return el("g", NO_ATTRIBUTES, line((at, y - 5), (at, frame.bottom), f"mark {style}"), label)
