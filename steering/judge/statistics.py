"""Intervals by bootstrap over texts, paired where two things were measured on the same texts, and placebo ranks.

A text is the unit that is resampled: its tokens are not independent draws, so an interval over tokens would be far
too narrow. The bias-corrected accelerated interval (BCa; Efron 1987, "Better bootstrap confidence intervals") is the
default: it keeps its coverage for skewed values such as divergences; "percentile" is the plain one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from trimtab.steering.errors import SteeringError, UnknownName
from trimtab.steering.price.result import Interval

METHODS = ("bca", "percentile")
_CHUNK = 4_000_000  # resampled numbers held at once


@dataclass(frozen=True)
class Bootstrap:
    """draws: resamples. level: coverage. seed: of the resampling. method: one of METHODS."""

    draws: int = 2000
    level: float = 0.95
    seed: int = 0
    method: str = "bca"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownName("bootstrap method", self.method, METHODS)
        if not 0 < self.level < 1 or self.draws < 1:
            raise SteeringError(f"a bootstrap of {self.draws} draws at level {self.level} has no interval")


BOOTSTRAP = Bootstrap()


def mean_interval(values: Sequence[float] | np.ndarray, how: Bootstrap = BOOTSTRAP) -> Interval:
    """Mean of one value per text, and its interval. Raises SteeringError for fewer than 2 values or non-finite ones."""
    array = np.asarray(values, dtype=np.float64)
    return ratio_interval(array, np.ones_like(array), how)


def ratio_interval(sums: np.ndarray, counts: np.ndarray, how: Bootstrap = BOOTSTRAP) -> Interval:
    """Mean over tokens, `sum(sums) / sum(counts)`, when text i has counts[i] tokens that add up to sums[i].

    Texts are resampled whole. Raises SteeringError when there are fewer than 2 texts with tokens, or non-finite sums.
    """
    kept = np.asarray(counts) > 0
    sums, counts = np.asarray(sums, np.float64)[kept], np.asarray(counts, np.float64)[kept]
    n = len(sums)
    if n < 2:
        raise SteeringError(f"an interval over {n} texts says nothing about other texts; give at least 2")
    if not np.isfinite(sums).all():
        raise SteeringError(
            f"{int((~np.isfinite(sums)).sum())} of {n} texts have non-finite values; no interval exists"
        )
    estimate = sums.sum() / counts.sum()
    drawn = np.sort(_resampled(sums, counts, how))
    shares = _shares(sums, counts, drawn, how) if how.method == "bca" else _tails(how.level)
    low, high = np.quantile(drawn, shares)
    return Interval(float(estimate), float(min(low, estimate)), float(max(high, estimate)), n, how.level)


def paired_difference(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, how: Bootstrap = BOOTSTRAP
) -> Interval:
    """Mean of `first - second`, value by value on the same texts: what both share cancels."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise SteeringError(f"a paired difference needs the same texts on both sides; got {len(a)} and {len(b)} values")
    return mean_interval(a - b, how)


def rank_p_value(observed: float, placebos: Sequence[float]) -> float:
    """(1 + placebos at least as large) / (1 + placebos): the chance that a placebo drawn like these is as good.

    19 placebos are the fewest that can reach 0.05 (Phipson and Smyth 2010, "Permutation p-values should never be
    zero").
    """
    values = np.asarray(placebos, dtype=np.float64)
    return float((1 + (values >= observed).sum()) / (1 + len(values)))


def _resampled(sums: np.ndarray, counts: np.ndarray, how: Bootstrap) -> np.ndarray:
    """`[draws]` resampled ratios."""
    generator, n = np.random.default_rng(how.seed), len(sums)
    rows = max(1, _CHUNK // n)
    found = []
    for start in range(0, how.draws, rows):
        index = generator.integers(0, n, size=(min(rows, how.draws - start), n))
        found.append(sums[index].sum(1) / counts[index].sum(1))
    return np.concatenate(found)


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _shares(sums: np.ndarray, counts: np.ndarray, drawn: np.ndarray, how: Bootstrap) -> tuple[float, float]:
    """The quantiles that BCa reads: shifted by the bias z0 and the acceleration a (from the jackknife)."""
    normal, estimate = NormalDist(), sums.sum() / counts.sum()
    below = ((drawn < estimate).mean() + (drawn <= estimate).mean()) / 2
    z0 = normal.inv_cdf(float(np.clip(below, 1 / (len(drawn) + 1), len(drawn) / (len(drawn) + 1))))
    without = (sums.sum() - sums) / (counts.sum() - counts)
    spread = without.mean() - without
    scale = (spread**2).sum() ** 1.5
    a = 0.0 if scale == 0 else float((spread**3).sum() / (6 * scale))

    def share(tail: float) -> float:
        z = z0 + normal.inv_cdf(tail)
        return normal.cdf(z0 + z / (1 - a * z))

    low, high = _tails(how.level)
    return share(low), share(high)
