"""What charts and tables are made of: HTML, numbers, scales."""

import math

import pytest

from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.answer_sections import marked
from trimtab.tasks.reporting.drawing.html import el
from trimtab.tasks.reporting.drawing.numbers import estimate, number
from trimtab.tasks.reporting.drawing.scale import AxisScale, linear, positive


def test_html_is_escaped_unless_made_by_el() -> None:
    assert el("p", {"title": '"<'}, "<b>", [el("i", {}, "&")]) == '<p title="&quot;&lt;">&lt;b&gt;<i>&amp;</i></p>'


def test_highlighting_whole_words_only() -> None:
    assert "".join(map(str, marked("La lame, LA", ["la"]) or [])) == "<mark>La</mark> lame, <mark>LA</mark>"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.4123, "0.412"),
        (-0.5, "−0.500"),
        (12345.6, "12,346"),
        (1.23e-5, "1.23×10⁻⁵"),
        (0.9999, "1.00"),
        (0.0, "0"),
        (None, "not measured"),
        (math.nan, "not measured"),
        (math.inf, "∞"),
    ],
)
def test_numbers(value: float | None, words: str) -> None:
    assert number(value) == words


def test_an_interval_has_the_decimals_of_its_uncertainty() -> None:
    assert estimate(Interval(0.02, -0.0118, 0.0518, 9), signed=True) == "+0.020 [−0.012, +0.052]"
    assert estimate(Interval(18.42, 17.9, 18.9, 9)) == "18.42 [17.90, 18.90]"
    assert estimate(Interval(0.5, math.nan, math.nan, 0)) == "0.500 no interval"
    assert estimate(Interval(0.5, 0.5, 0.5, 1)) == "0.500 [0.500, 0.500]"


def test_scales_keep_order_and_ticks_inside() -> None:
    for scale in (
        linear([-0.3, 0.9], 10, 400),
        positive([0.01, 1.0], 10, 400),
        AxisScale(0, 1, 300, 20),
        linear([2.0], 0, 9),
    ):
        ticks = scale.ticks()
        assert len(ticks) >= 2 and all(scale.low <= tick <= scale.high for tick in ticks)
        pixels = [scale(tick) for tick in ticks]
        assert pixels == sorted(pixels, reverse=scale.end < scale.start)
        assert scale(scale.low) == pytest.approx(scale.start) and scale(scale.high) == pytest.approx(scale.end)
