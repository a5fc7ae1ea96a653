"""From values to pixels, with ticks at round numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOG_FROM_RATIO = 20.0


@dataclass(frozen=True)
class AxisScale:
    """low..high in units of the data maps to start..end in pixels; values outside are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        return self.start + self.share(value) * (self.end - self.start)

    def at(self, share: float) -> float:
        """The value at a share of the way from low to high, as the axis is drawn."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)

    def share(self, value: float) -> float:
        """The reverse of `at`; values outside count as the edge."""
        inside = min(max(value, self.low), self.high)
        return (self._warp(inside) - self._warp(self.low)) / (self._warp(self.high) - self._warp(self.low))

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale, about `count`."""
        return _log_ticks(self.low, self.high, count) if self.log else _linear_ticks(self.low, self.high, count)

    def _warp(self, value: float) -> float:
        return math.log(value) if self.log else value


def linear(values: Sequence[float], start: float, end: float, pad: float = 0.06) -> AxisScale:
    """A linear scale around the values, with a share `pad` of room at both ends."""
    low, high = min(values), max(values)
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    return AxisScale(low - room, high + room, start, end)


def positive(values: Sequence[float], start: float, end: float) -> AxisScale:
    """For what cannot be negative: logarithmic when it spans a factor of 20 or more, else from 0."""
    above = [value for value in values if value > 0] or [1.0]
    low, high = min(above), max(above)
    if min(values) > 0 and high / low >= LOG_FROM_RATIO:
        return AxisScale(low / 1.25, high * 1.25, start, end, log=True)
    return AxisScale(0.0, high * 1.08, start, end)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / max(count, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    # rounding keeps 0.30000000000000004 out of the labels
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in mantissas if low <= m * 10.0**d <= high]
        if len(ticks) <= count + 1:
            return ticks
    return ticks[:: math.ceil(len(ticks) / (count + 1))]
