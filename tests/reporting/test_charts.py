"""Words on charts: none is cut, none is crossed by a line."""

import re
from dataclasses import replace
from html import unescape

import pytest
from verdicts import verdict

from trimtab.tasks.reporting.charts import forest, tokens
from trimtab.tasks.reporting.drawing.svg import NARROW, WIDE

LETTER = 6.0  # pixels of one letter, on average


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_long_axis_name_is_wrapped_inside_the_drawing(width: int) -> None:
    name = "change of share of function words in the target language minus those in another, per 100 words"
    drawn = forest.draw(forest.Forest(verdict().contenders[:3], lambda c: c.effect.margin, name, 0.1), width)
    height = float(re.findall(r'viewBox="0 0 \S+ (\S+)"', drawn)[0])
    lines = re.findall(r'<text class="axis mid" x="(\S+)" y="(\S+)">([^<]*)<', drawn)
    assert len(lines) >= (2 if width == NARROW else 1) and unescape(" ".join(words for _, _, words in lines)) == name
    for x, y, words in lines:
        half = LETTER * len(words) / 2
        assert float(x) - half >= 0 and float(x) + half <= width and float(y) < height


@pytest.mark.parametrize("budget", [0.3, None])
def test_no_name_in_the_histogram_is_crossed_by_another_line(budget: float | None) -> None:
    """Mean, budget and 95th percentile so near to each other that their names would lie on each other."""
    kl = verdict().price.budget
    near = replace(kl, mean=replace(kl.mean, mean=0.33), p95=0.6, max=2.0, per_token=(1e-4, 0.1, 0.3, 2.0))
    drawn = tokens.draw(tokens.TokenCosts(near, budget))
    lines = [tuple(map(float, one)) for one in re.findall(r'<line class="mark \w+" x1="(\S+)" y1="(\S+)"', drawn)]
    names = re.findall(r'<text class="flag end" x="(\S+)" y="(\S+)">([^<]*)<', drawn)
    assert len(lines) == len(names) == (3 if budget is None else 4)
    for end, base, words in names:
        right, y = float(end), float(base)
        assert not [at for at, top in lines if right - LETTER * len(words) < at < right and top < y]
    assert len({y for _, y, _ in names}) == len(names)
