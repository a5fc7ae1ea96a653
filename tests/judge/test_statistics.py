"""Bootstrap intervals: coverage, clusters, pairing, seeds; placebo ranks."""

import numpy as np
import pytest

from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.statistics import (
    Bootstrap,
    mean_interval,
    paired_difference,
    rank_p_value,
    ratio_interval,
)


def covered(draw, truth: float, how: Bootstrap, runs: int = 300) -> float:
    generator = np.random.default_rng(5)
    hits = [(i := mean_interval(draw(generator), how)).low <= truth <= i.high for _ in range(runs)]
    return float(np.mean(hits))


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_coverage_of_normal_values(method):
    share = covered(lambda g: g.normal(3, 2, 40), 3.0, Bootstrap(draws=600, method=method))
    assert 0.90 <= share <= 0.98


def test_coverage_of_skewed_values():
    """Divergences are skewed: exponential values, n = 40."""
    share = covered(lambda g: g.exponential(1.0, 40), 1.0, Bootstrap(draws=600))
    assert 0.89 <= share <= 0.98


def test_the_level_is_the_coverage():
    assert 0.72 <= covered(lambda g: g.normal(0, 1, 40), 0.0, Bootstrap(draws=600, level=0.8)) <= 0.87


def test_bca_follows_the_skew():
    values = np.random.default_rng(0).exponential(1.0, 60)
    bca, plain = (mean_interval(values, Bootstrap(method=m)) for m in ("bca", "percentile"))
    assert bca.high > plain.high and bca.low > plain.low


def test_tokens_of_one_text_are_not_independent():
    """The same numbers as 10 texts of 100 equal tokens or as 1000 texts: the interval knows the difference."""
    levels = np.random.default_rng(1).normal(0, 1, 10)
    texts = ratio_interval(levels * 100, np.full(10, 100))
    tokens = mean_interval(np.repeat(levels, 100))
    assert texts.mean == pytest.approx(tokens.mean) and (texts.n, tokens.n) == (10, 1000)
    assert texts.high - texts.low > 5 * (tokens.high - tokens.low)


def test_the_mean_is_over_tokens_and_empty_texts_do_not_count():
    found = ratio_interval(np.array([10.0, 2.0, 0.0]), np.array([10, 1, 0]))
    assert found.mean == pytest.approx(12 / 11) and found.n == 2


def test_pairing_cancels_what_both_share():
    generator = np.random.default_rng(2)
    shared, noise = generator.normal(0, 10, 50), generator.normal(0, 0.1, 50)
    found = paired_difference(shared + noise + 0.3, shared)
    assert found.low > 0.2 and found.high < 0.4


def test_seeded_and_chunked():
    values = np.random.default_rng(3).normal(size=30)
    assert mean_interval(values) == mean_interval(values) != mean_interval(values, Bootstrap(seed=1))


def test_equal_values_give_a_point():
    found = mean_interval([0.5] * 8)
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_rank_p_value():
    assert rank_p_value(1.0, [0.0] * 19) == pytest.approx(0.05)
    assert rank_p_value(1.0, [2.0] * 19) == 1.0
    assert rank_p_value(1.0, [1.0, 0.0, 0.0]) == pytest.approx(0.5)  # a tie is as good
    assert rank_p_value(1.0, []) == 1.0


@pytest.mark.parametrize(
    "wrong,words",
    [
        (lambda: mean_interval([1.0]), "at least 2"),
        (lambda: mean_interval([]), "at least 2"),
        (lambda: mean_interval([1.0, np.nan]), "non-finite"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "same texts"),
        (lambda: Bootstrap(level=1.0), "no interval"),
        (lambda: Bootstrap(method="magic"), "bootstrap method"),
    ],
)
def test_bad_input(wrong, words):
    with pytest.raises(SteeringError, match=words):
        wrong()
