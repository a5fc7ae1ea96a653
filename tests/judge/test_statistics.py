"""Bootstrap intervals: coverage, clusters, pairing, seeds; placebo ranks."""

from math import comb

import numpy as np
import pytest

from trimtab.steering.errors import SteeringError
from trimtab.steering.statistics import (
    Bootstrap,
    mean_interval,
    paired_difference,
    rank_p_value,
    ratio_interval,
    share_interval,
)

TRIALS = 400
ERROR = 3 * (0.05 * 0.95 / TRIALS) ** 0.5  # three Monte-Carlo errors of a coverage of 0.95


QUICK = Bootstrap(draws=400)


def covered(draw, truth: float, how: Bootstrap = QUICK, clusters=None) -> float:
    generator = np.random.default_rng(5)
    hits = [(i := mean_interval(draw(generator), how, clusters)).low <= truth <= i.high for _ in range(TRIALS)]
    return float(np.mean(hits))


def test_coverage_of_few_and_of_many_texts():
    """Whatever the number of texts: normal values at their level, divergence-like skewed ones as the module states."""
    stated = {8: 0.891, 10: 0.914, 16: 0.913, 40: 0.941}
    for n, skewed in stated.items():
        share = covered(lambda g, n=n: g.normal(3, 2, n), 3.0)
        assert 0.95 - ERROR <= share <= 0.97 + ERROR, f"{n} normal values"
        assert covered(lambda g, n=n: g.lognormal(size=n), np.exp(0.5)) >= skewed - ERROR, f"{n} skewed values"


def test_coverage_of_prompts_that_were_answered_several_times():
    """40 pairs of 10 prompts, half of the variance the prompt's; as many answers to each, or not."""
    for counts in ([4] * 10, [1, 1, 1, 1, 2, 2, 4, 8, 10, 10]):
        prompt = np.repeat(np.arange(10), counts)
        share = covered(lambda g, p=prompt: g.normal(size=10)[p] + g.normal(size=40), 0.0, clusters=prompt.tolist())
        assert share >= 0.95 - ERROR, f"{counts} answers to 10 prompts"
        assert share <= 0.97 + ERROR
    alone = covered(lambda g: np.repeat(g.normal(size=10), 4) + g.normal(size=40), 0.0)
    assert alone < 0.85, "the law can fail: answers taken for independent are covered far too rarely"


def test_clusters_are_counted_and_are_their_totals():
    values, counts, prompt = np.arange(6.0), np.array([1, 2, 3, 1, 2, 3]), list("abcabc")
    whole = ratio_interval(values, counts, clusters=prompt)
    totals = ratio_interval(np.array([3.0, 5.0, 7.0]), np.array([2, 4, 6]))
    assert (whole.n, whole.clusters) == (6, 3) and totals.clusters == 3
    assert (whole.low, whole.mean, whole.high) == (totals.low, totals.mean, totals.high)


def test_shares_have_exact_intervals():
    """Coverage of every share is computed, not drawn: at least the level, from 0 to 1."""
    for n in (3, 20):
        ends = [share_interval(np.arange(n) < k) for k in range(n + 1)]
        for p in np.linspace(0, 1, 41):
            chance = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k, i in enumerate(ends) if i.low <= p <= i.high)
            assert chance >= 0.95 - 1e-9
    assert (ends[0].low, ends[-1].high) == (0.0, 1.0) and 0.1 < ends[0].high < 0.2


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_coverage_of_normal_values(method):
    assert 0.90 <= covered(lambda g: g.normal(3, 2, 40), 3.0, Bootstrap(draws=400, method=method)) <= 0.98


def test_the_level_is_the_coverage():
    assert 0.74 <= covered(lambda g: g.normal(0, 1, 40), 0.0, Bootstrap(draws=400, level=0.8)) <= 0.86


def test_intervals_follow_the_skew():
    values = np.random.default_rng(0).exponential(1.0, 60)
    plain, *others = (mean_interval(values, Bootstrap(method=m)) for m in ("percentile", "bca", "studentised"))
    assert all(one.high > plain.high for one in others) and others[0].low > plain.low


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
        (lambda: mean_interval([1.0, 2.0], clusters="aa"), "all 2 values belong to one prompt"),
        (lambda: mean_interval([1.0, 2.0], clusters="a"), "2 values belong to 1 clusters"),
        (lambda: share_interval(np.zeros(0)), "at least one"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "same texts"),
        (lambda: Bootstrap(level=1.0), "no interval"),
        (lambda: Bootstrap(method="magic"), "bootstrap method"),
    ],
)
def test_bad_input(wrong, words):
    with pytest.raises(SteeringError, match=words):
        wrong()
