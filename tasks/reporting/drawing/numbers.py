"""Numbers as a reader wants them: three significant digits, a true minus, intervals, never a bare nan."""

import math
from collections.abc import Iterable

from trimtab.steering.statistics import Interval

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
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    # rounded first, or 0.9999 would be given the decimals of 0.999
    return max(0, 2 - math.floor(math.log10(float(f"{value:.2e}"))))


def tick(value: float) -> str:
    """A round number on an axis, without trailing zeros."""
    return f"{value:g}".replace("-", "−")


def like(value: float | None, reference: float) -> str:
    """With the decimals that three significant digits of `reference` have: a column of prices lines up."""
    if value is None or not math.isfinite(value) or not 1e-4 <= abs(reference) < 1e6:
        return number(value)
    return f"{value:,.{_decimals(abs(reference))}f}".replace("-", "−")


def centre(interval: Interval, signed: bool = False) -> str:
    """The mean, to two significant digits of its uncertainty: 0.020, when the interval is 0.064 wide."""
    return _rounded(interval.mean, interval, signed)


def bracket(interval: Interval, signed: bool = False) -> str:
    """[0.353, 0.474], with the decimals of the mean, or that there is none."""
    if not _has_ends(interval):
        return "no interval"
    return f"[{_rounded(interval.low, interval, signed)}, {_rounded(interval.high, interval, signed)}]"


def estimate(interval: Interval | None, signed: bool = False) -> str:
    """0.412 [0.353, 0.474]."""
    return MISSING if interval is None else f"{centre(interval, signed)} {bracket(interval, signed)}"


def _rounded(value: float, interval: Interval, signed: bool) -> str:
    half = (interval.high - interval.low) / 2 if _has_ends(interval) else 0.0
    if not math.isfinite(value) or not 1e-5 <= half < 1e4:
        return number(value, signed)
    shown = f"{abs(value):,.{max(0, 1 - math.floor(math.log10(half)))}f}"
    return ("−" if value < 0 else "+" if signed and value > 0 else "") + shown


def _has_ends(interval: Interval) -> bool:
    return math.isfinite(interval.low) and math.isfinite(interval.high)


def coverage(interval: Interval, what: str) -> str:
    """95% interval over 120 pairs of 30 prompts. what: the values that were measured, in the plural."""
    prompts = interval.clusters or interval.n
    of = f" of {prompts:,} prompts" if prompts < interval.n else ""
    return f"{interval.level:.0%} interval over {interval.n:,} {what}{of}"


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
