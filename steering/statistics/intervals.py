"""Intervals over texts, paired where two things were measured on the same texts, and placebo ranks.

The unit that is resampled is what was drawn independently: a text, not its tokens, and a prompt with all of its texts
(a cluster), not each text by itself. Anything finer gives intervals that are far too narrow: 40 answers to 10 prompts,
half of their variance the prompt's, had a "95%" interval that held the truth 75% of the time."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtr, stdtrit

from trimtab.steering.errors import SteeringError
from trimtab.steering.statistics.bootstrap import BOOTSTRAP, ENDS, Bootstrap, Totals, tails

COLUMN_DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval. level: coverage, for example 0.95. n: texts measured. clusters: independent units
    among them, which were resampled whole: prompts (None in records from before they were counted)."""

    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95
    clusters: int | None = None


def mean_interval(
    values: Sequence[float] | np.ndarray, how: Bootstrap = BOOTSTRAP, clusters: Sequence[Hashable] | None = None
) -> Interval:
    """Mean of one value per text, and its interval. clusters: which texts belong together, `[n]` labels, for example
    their prompts (None: each text stands for itself).

    Raises SteeringError for fewer than 2 values or clusters, and for non-finite values.
    """
    array = np.asarray(values, dtype=np.float64)
    return ratio_interval(array, np.ones_like(array), how, clusters)


def ratio_interval(
    sums: np.ndarray, counts: np.ndarray, how: Bootstrap = BOOTSTRAP, clusters: Sequence[Hashable] | None = None
) -> Interval:
    """Mean over tokens, `sum(sums) / sum(counts)`, when text i has counts[i] tokens that add up to sums[i].

    Clusters (see `mean_interval`) are resampled whole. Raises SteeringError when there are fewer than 2 texts with
    tokens, or they all belong to one cluster, or for non-finite sums.
    """
    groups = cluster_numbers(range(len(sums)) if clusters is None else clusters)
    if len(groups) != len(sums):
        raise SteeringError(f"{len(sums)} values belong to {len(groups)} clusters; give one label for each value")
    some = np.asarray(counts) > 0
    sums, counts = np.asarray(sums, np.float64)[some], np.asarray(counts, np.float64)[some]
    n = len(sums)
    if n < 2:
        raise SteeringError(f"an interval over {n} texts says nothing about other texts; give at least 2")
    if not np.isfinite(sums).all():
        raise SteeringError(
            f"{int((~np.isfinite(sums)).sum())} of {n} texts have non-finite values; no interval exists"
        )
    totals = Totals.of(sums, counts, groups[some])
    if len(totals.sums) < 2:
        raise SteeringError(
            f"all {n} values belong to one prompt, so they say nothing about other prompts; give at least 2 prompts"
        )
    low, high = ENDS[how.method](totals, how)
    estimate = totals.ratio
    return Interval(estimate, min(low, estimate), max(high, estimate), n, how.level, len(totals.sums))


def separate_difference(first: Interval, second: Interval) -> Interval:
    """`first - second` of two estimates that were taken apart, such as those of two verdicts, from their intervals.

    The distances from mean to end add in squares (Zou and Donner 2008, method of variance estimates recovery), which
    holds for independent estimates. Two on the same texts vary together, and their true interval is narrower.
    """
    mean = first.mean - second.mean
    below = np.hypot(first.mean - first.low, second.high - second.mean)
    above = np.hypot(first.high - first.mean, second.mean - second.low)
    n = min(first.n, second.n)
    return Interval(mean, float(mean - below), float(mean + above), n, min(first.level, second.level))


def paired_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    how: Bootstrap = BOOTSTRAP,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Mean of `first - second`, value by value on the same texts: what both share cancels."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise SteeringError(f"a paired difference needs the same texts on both sides; got {len(a)} and {len(b)} values")
    return mean_interval(a - b, how, clusters)


def share_interval(hits: np.ndarray, level: float = 0.95) -> Interval:
    """Share of independent trials that hit, with its exact interval (Clopper and Pearson 1934): at least `level`
    coverage for any share and number of trials, where a bootstrap of 0 hits in 20 would be the single point 0."""
    n, k = len(hits), int(np.count_nonzero(hits))
    if not n:
        raise SteeringError("a share of no trials does not exist; give at least one")
    tail = (1 - level) / 2
    low = betaincinv(k, n - k + 1, tail) if k else 0.0
    high = betaincinv(k + 1, n - k, 1 - tail) if k < n else 1.0
    return Interval(k / n, float(low), float(high), n, level, n)


def share_of_total(
    part: np.ndarray, total: np.ndarray, how: Bootstrap = BOOTSTRAP, clusters: Sequence[Hashable] | None = None
) -> Interval:
    """Ratio of means with its interval, questions resampled in pairs, and with all others of their cluster. Questions
    where nothing is there to lose stay in the mean: the ratio is taken after it. Percentile interval, on resamples
    with a positive total."""
    if (total > 0).all():
        return ratio_interval(part, total, how, clusters)
    numbers = cluster_numbers(range(len(part)) if clusters is None else clusters)
    parts, totals = np.bincount(numbers, part), np.bincount(numbers, total)
    n = len(parts)
    rows = np.random.default_rng(how.seed).integers(0, n, size=(how.draws, n))
    below, above = totals[rows].sum(1), parts[rows].sum(1)
    low, high = np.quantile((above / below)[below > 0], tails(how.level))
    estimate = float(part.mean() / total.mean())
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate), len(part), how.level, n)


def column_intervals(
    per_row: np.ndarray, draws: int = COLUMN_DRAWS, seed: int = 0, clusters: Sequence[Hashable] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high `[n]` ends of the 95% percentile interval of the mean over rows of every column of `[rows n]`. All
    columns are resampled together, so differences between them stay paired. clusters: `[rows]` labels of rows that
    belong together and are resampled whole, such as questions on one prompt. One row or cluster has no interval: both
    ends are nan.

    The quantiles are those that make the interval as wide as Student's t where values are normal (Hesterberg 2015,
    "What teachers should know about the bootstrap", section 5.3): the plain ones are too narrow for few rows.
    """
    numbers = cluster_numbers(range(len(per_row)) if clusters is None else clusters)
    sizes, n = np.bincount(numbers), per_row.shape[1]
    groups = len(sizes)
    if groups < 2:
        return np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
    totals = np.zeros((groups, n))
    np.add.at(totals, numbers, per_row.astype(np.float64))
    counts = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=draws)
    means = counts @ totals / (counts @ sizes)[:, None]
    tail = float(ndtr(stdtrit(groups - 1, 0.025) * np.sqrt(groups / (groups - 1))))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low.astype(np.float32), high.astype(np.float32)


def cluster_numbers(labels: Sequence[Hashable] | range) -> np.ndarray:
    """`[n]` numbers from 0, equal where the labels are equal, in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
