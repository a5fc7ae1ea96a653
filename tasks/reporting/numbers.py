"""Numbers as a reader wants them: three significant digits, a true minus, intervals, never a bare nan."""

import math
from collections.abc import Iterable

from trimtab.steering.price.result import Interval

NATS = "nats/token"
MISSING = "not measured"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, signed: bool = False) -> str:
    """0.4123 -> 0.412; 12345.6 -> 12,346; 0.0000123 -> 1.23×10⁻⁵. None and nan say so; infinity is ∞."""
    if value is None or math.isnan(value):
        return MISSING
    sign = "−" if value < 0 else "+" if signed and value > 0 else ""
    return sign + _positive(abs(value))


def _positive(value: float) -> str:
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    if not 1e-4 <= value < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    # rounded first, or 0.9999 would be given the decimals of 0.999
    decimals = max(0, 2 - math.floor(math.log10(float(f"{value:.2e}"))))
    return f"{value:,.{decimals}f}"


def tick(value: float) -> str:
    """A round number on an axis, without trailing zeros."""
    return f"{value:g}".replace("-", "−")


def bracket(interval: Interval, signed: bool = False) -> str:
    """[0.35, 0.47], or that there is none."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return "no interval"
    return f"[{number(interval.low, signed)}, {number(interval.high, signed)}]"


def estimate(interval: Interval | None, signed: bool = False) -> str:
    """0.412 [0.35, 0.47]."""
    return MISSING if interval is None else f"{number(interval.mean, signed)} {bracket(interval, signed)}"


def coverage(interval: Interval, what: str) -> str:
    """95% interval over 120 pairs. what: the clusters that were resampled, in the plural."""
    return f"{interval.level:.0%} bootstrap interval over {interval.n:,} {what}"


def percent(share: float | None) -> str:
    """0.734 -> 73%. Below one percent, two significant digits."""
    if share is None or math.isnan(share):
        return MISSING
    digits = 0 if abs(share) >= 0.01 or share == 0 else 2
    return f"{share * 100:.{digits}f}%".replace("-", "−")


def plural(count: int, noun: str) -> str:
    """1 pair, 2 pairs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, with an ellipsis where something was left out."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def finite(values: Iterable[float | None]) -> list[float]:
    """Those that can be drawn."""
    return [value for value in values if value is not None and math.isfinite(value)]


def bounds(intervals: Iterable[Interval]) -> list[float]:
    """Every drawable end and mean of the intervals."""
    return finite(value for i in intervals for value in (i.low, i.mean, i.high))
