"""Where the nats go: a histogram of KL over tokens, counts logarithmic because most tokens cost nothing."""

from dataclasses import dataclass

from trimtab.steering.price.result import KL
from trimtab.tasks.reporting.html import NO_ATTRIBUTES, Html, el
from trimtab.tasks.reporting.numbers import NATS, finite, number, percent, plural
from trimtab.tasks.reporting.scale import Scale
from trimtab.tasks.reporting.svg import HALF, Frame, drawing, framed, hover, line, rect, text, x_axis, y_axis

BINS = 36


@dataclass(frozen=True)
class Tokens:
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
        asked = [] if self.budget is None else [("budget", self.budget, "budget")]
        return [mark for mark in [*asked, *named] if finite([mark[1]])]


def draw(tokens: Tokens, width: int = HALF) -> Html:
    """The histogram, with budget, mean, 95th percentile and maximum named above it."""
    marks, values = tokens.marks, tokens.values
    frame = framed(width, 270 + 15 * len(marks), (30 + 15 * len(marks), 14, 46, 46))
    high = max([*values, *(place for _, place, _ in marks)]) or 1.0
    x = Scale(min(0.0, *values, 0.0), high, frame.left, frame.right)
    counts = _count(values, x)
    # half a token as the floor gives a bar of one token a height
    y = Scale(0.6, max(counts) * 1.3, frame.bottom, frame.top, log=True)
    bars = [_bar(n, count, (x, y), frame, len(values)) for n, count in enumerate(counts) if count]
    axes = [x_axis(frame, x, f"KL of one token, {NATS}", 5), _axis(frame, y)]
    lines = [_mark(mark, n, frame, x) for n, mark in enumerate(marks)]
    name = f"Histogram of KL over {len(values)} tokens, logarithmic counts"
    return drawing(frame, name, axes, bars, lines)


def _axis(frame: Frame, y: Scale) -> Html:
    decades = Scale(1.0, y.high, y(1.0), y.end, log=True)
    return y_axis(frame, decades, "tokens (log)", 4) if y.high > 3 else y_axis(frame, y, "tokens", 2)


def _count(values: list[float], x: Scale) -> list[int]:
    counts = [0] * BINS
    for value in values:
        counts[min(int((value - x.low) / (x.high - x.low) * BINS), BINS - 1)] += 1
    return counts


def _bar(n: int, count: int, scales: tuple[Scale, Scale], frame: Frame, total: int) -> Html:
    x, y = scales
    step = (x.high - x.low) / BINS
    low, high = x.low + n * step, x.low + (n + 1) * step
    share = percent(count / total)
    tip = f"{number(low)} to {number(high)} {NATS}\n{plural(count, 'token')}, {share} of those drawn"
    width = x(high) - x(low)
    box = rect((x(low) + 0.5, y(count)), (width - 1, frame.bottom - y(count)), "bar")
    return hover(tip, rect((x(low), frame.top), (width, frame.bottom - frame.top), "hit"), box)


def _mark(mark: tuple[str, float, str], n: int, frame: Frame, x: Scale) -> Html:
    name, value, style = mark
    at, y = x(value), 32 + 15 * n
    right = at > (frame.left + frame.right) / 2
    label = text(
        (at + (-5 if right else 5), y + 4), f"{name} {number(value)}", "flag end" if right else "flag"
    )
    return el("g", NO_ATTRIBUTES, line((at, y - 5), (at, frame.bottom), f"mark {style}"), label)
