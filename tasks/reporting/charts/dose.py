"""How the strength was found: the KL of every verification, in order, against the budget."""

from trimtab.steering.price.result import Dose
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, el
from trimtab.tasks.reporting.drawing.numbers import NATS, finite, number
from trimtab.tasks.reporting.drawing.scale import AxisScale, positive
from trimtab.tasks.reporting.drawing.svg import (
    HALF,
    Frame,
    circle,
    diamond,
    drawing,
    framed,
    hover,
    line,
    polyline,
    text,
    y_axis,
)

LABEL_WIDTH = 46  # pixels that a strength needs under the axis


def draw(dose: Dose, width: int = HALF) -> Html:
    """One mark per verification, its strength under it; the last one is what the plan uses."""
    frame = framed(width, 270, (40, 20, 46, 52))
    steps = [(strength, kl) for strength, kl in dose.history if finite([strength, kl])[1:]]
    x = AxisScale(0.5, len(steps) + 0.5, frame.left, frame.right)
    y = positive([kl for _, kl in steps] + finite([dose.asked]), frame.bottom, frame.top)
    at = [(x(n + 1), y(kl)) for n, (_, kl) in enumerate(steps)]
    marks = [_mark(n, step, at[n], n == len(steps) - 1) for n, step in enumerate(steps)]
    budget = [_budget(frame, y(value), value) for value in finite([dose.asked])]
    axes = [
        y_axis(frame, y, f"KL reached, {NATS}", 4),
        _strengths(frame, x, [strength for strength, _ in steps]),
    ]
    body = el("g", {"class": "k-plan"}, polyline(at, "curve faint"), marks)
    return drawing(frame, f"KL of each of {len(steps)} verifications of the dose", axes, budget, body)


def _mark(n: int, step: tuple[float, float], at: tuple[float, float], last: bool) -> Html:
    strength, kl = step
    tip = f"verification {n + 1}\nstrength {number(strength)}\nKL {number(kl)} {NATS}"
    return hover(tip, circle(at, 12, "hit"), diamond(at, 6.5, "dot") if last else circle(at, 4, "dot"))


def _strengths(frame: Frame, x: AxisScale, strengths: list[float]) -> Html:
    every = max(1, round(len(strengths) * LABEL_WIDTH / (frame.right - frame.left) + 0.5))
    shown = [n for n in range(len(strengths)) if (len(strengths) - 1 - n) % every == 0]
    labels = [text((x(n + 1), frame.bottom + 17), number(strengths[n]), "tick mid") for n in shown]
    name = text(((frame.left + frame.right) / 2, frame.bottom + 36), "strength tried, in order", "axis mid")
    base = line((frame.left, frame.bottom), (frame.right, frame.bottom), "zero")
    return el("g", NO_ATTRIBUTES, base, labels, name)


def _budget(frame: Frame, y: float, nats: float) -> Html:
    label = text((frame.left + 4, y - 6), f"budget {number(nats)}", "flag")
    return el("g", NO_ATTRIBUTES, line((frame.left, y), (frame.right, y), "budget"), label)
