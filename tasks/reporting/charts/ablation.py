"""What asking for the behaviour gains, what is left without the direction, and without random directions."""

from trimtab.steering.judge.verdict import AblationResult
from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, el
from trimtab.tasks.reporting.drawing.numbers import NATS, bounds, estimate, finite, number, percent
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear
from trimtab.tasks.reporting.drawing.svg import (
    HALF,
    Frame,
    circle,
    diamond,
    drawing,
    framed,
    hover,
    line,
    rect,
    text,
    x_axis,
)

JITTER = (0.0, 8.0, 16.0, 4.0, 12.0)  # pixels down, so that equal shares can be told apart


def bars(result: AblationResult, width: int = HALF) -> Html:
    """Two bars with intervals: the gain from asking, and what remains after ablation."""
    frame = framed(width, 150, (6, 16, 46, 14))
    both = [
        ("asked for, untouched", result.asked_gain, "s1"),
        ("asked for, ablated", result.gain_after, "k-plan"),
    ]
    x = linear([*bounds([result.asked_gain, result.gain_after]), 0.0], frame.left, frame.right, pad=0.04)
    drawn = [_bar(one, 4 + n * 48, x) for n, one in enumerate(both) if finite([one[1].mean])]
    zero = line((x(0), frame.top), (x(0), frame.bottom), "zero")
    axis = x_axis(frame, x, f"gain in margin from asking, {NATS}", 5)
    return drawing(frame, "Gain from asking, before and after ablation", axis, drawn, zero)


def _bar(one: tuple[str, Interval, str], top: float, x: AxisScale) -> Html:
    name, value, colour = one
    left, right = sorted((x(0), x(value.mean)))
    y = top + 28
    box = rect((left, top + 18), (right - left, 20), "bar solid", 2)
    ends = [x(end) for end in finite([value.low, value.high])]
    whisker = line((ends[0], y), (ends[1], y), "whisker dark") if len(ends) == 2 else None
    start = x(0) + 5 if x(0) < (x.start + x.end) / 2 else x.start
    label = text((start, top + 12), f"{name}: {number(value.mean, signed=True)}", "name")
    shapes = el("g", {"class": colour}, box)
    return hover(f"{name}\n{estimate(value, signed=True)} {NATS}", shapes, whisker, label)


def removed(result: AblationResult, width: int = HALF) -> Html:
    """The share removed on a line from none to all, the plan's direction beside random ones."""
    frame = framed(width, 150, (6, 16, 46, 14))
    shares = finite([result.removed, *result.random_removed])
    x = linear([0.0, 100.0, *(share * 100 for share in shares)], frame.left, frame.right, pad=0.03)
    randoms = [_random(n, share, x(share * 100)) for n, share in enumerate(finite(result.random_removed))]
    share = finite([result.removed])
    plan = _plan(share[0], x, frame) if share else None
    rows = [text((14, 66), f"{len(result.random_removed)} random directions", "name")] if randoms else []
    axis = x_axis(frame, x, "share of the gain that is gone, %", 5)
    return drawing(frame, "Share of the gain removed, beside random directions", axis, rows, randoms, plan)


def _random(n: int, share: float, x: float) -> Html:
    y = 76.0 + JITTER[n % len(JITTER)]
    dot = el("g", {"class": "k-random"}, circle((x, y), 4, "dot soft"))
    return hover(f"random direction {n + 1}\nremoves {percent(share)}", circle((x, y), 6, "hit"), dot)


def _plan(share: float, x: AxisScale, frame: Frame) -> Html:
    at = (x(share * 100), 33.0)
    words = text((14, 16), f"this plan's direction: {percent(share)}", "strong")
    return hover(
        f"this plan's direction\nremoves {percent(share)}",
        el("g", {"class": "k-plan"}, line((frame.left, 33), (frame.right, 33), "grid"), diamond(at, 7, "dot")),
        el("g", NO_ATTRIBUTES, words),
    )
