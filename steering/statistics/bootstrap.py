"""The bootstrap of a ratio of sums: how far it might be from the truth, by resampling clusters.

Three methods. "studentised", the default, is the bootstrap of the t statistic (Efron and Tibshirani 1993, section
12.5), never narrower on either side than Student's t interval, which alone is used for fewer than FEW_RESAMPLED
clusters. "bca" is the bias-corrected accelerated interval (Efron 1987), "percentile" the plain one; both are too
narrow for few clusters. Coverage of "95%" (`python benchmarks/coverage.py`, Monte-Carlo error 0.005):

    clusters                     8      10     16     40
    normal       studentised    0.966  0.967  0.960  0.963
                 bca            0.878  0.901  0.919  0.946
    exponential  studentised    0.942  0.939  0.954  0.952
                 bca            0.851  0.864  0.895  0.920
    lognormal    studentised    0.891  0.914  0.913  0.941
    (sigma 1)    bca            0.785  0.815  0.850  0.897
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

from trimtab.steering.errors import SteeringError, UnknownName

METHODS = ("studentised", "bca", "percentile")
FEW_RESAMPLED = 5  # below, resamples are too few to tell the shape of the t statistic
_CHUNK = 4_000_000  # resampled numbers held at once


@dataclass(frozen=True)
class Bootstrap:
    """draws: resamples. level: coverage. seed: of the resampling. method: one of METHODS."""

    draws: int = 2000
    level: float = 0.95
    seed: int = 0
    method: str = "studentised"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownName("bootstrap method", self.method, METHODS)
        if not 0 < self.level < 1 or self.draws < 1:
            raise SteeringError(f"a bootstrap of {self.draws} draws at level {self.level} has no interval")


BOOTSTRAP = Bootstrap()


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums and counts of every cluster, `[n]` each."""

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray, counts: np.ndarray, groups: np.ndarray) -> "Totals":
        """Of texts with these sums and counts. groups: each text's cluster number."""
        totals, tokens = np.bincount(groups, sums), np.bincount(groups, counts)
        return cls(totals[tokens > 0], tokens[tokens > 0])

    @property
    def ratio(self) -> float:
        """Sum of sums over sum of counts."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def error(self) -> float:
        """Standard error of the ratio, linearised: of the mean when all counts are 1."""
        return float(_errors(self.sums[None], self.counts[None])[0])

    def resampled(self, how: Bootstrap) -> tuple[np.ndarray, np.ndarray]:
        """`[draws]` ratios of resamples, and their standard errors."""
        generator, n = np.random.default_rng(how.seed), len(self.sums)
        rows = max(1, _CHUNK // n)
        parts = []
        for start in range(0, how.draws, rows):
            index = generator.integers(0, n, size=(min(rows, how.draws - start), n))
            sums, counts = self.sums[index], self.counts[index]
            parts.append((sums.sum(1) / counts.sum(1), _errors(sums, counts)))
        ratios, errors = zip(*parts, strict=True)
        return np.concatenate(ratios), np.concatenate(errors)


def _errors(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Standard errors of the ratios of sums, row by row of `[r n]`."""
    n, whole = sums.shape[1], counts.sum(1)
    left = sums - (sums.sum(1) / whole)[:, None] * counts
    errors: np.ndarray = np.sqrt((left**2).sum(1) * n / (n - 1)) / whole
    return errors


def tails(level: float) -> tuple[float, float]:
    """The two quantiles of an interval of this level."""
    return (1 - level) / 2, (1 + level) / 2


def _studentised(totals: Totals, how: Bootstrap) -> tuple[float, float]:
    """Ends by the bootstrapped t statistic, and by Student's where that is further out."""
    ratio, error, n = totals.ratio, totals.error, len(totals.sums)
    low, high = stdtrit(n - 1, tails(how.level))
    if error > 0 and n >= FEW_RESAMPLED:
        ratios, errors = totals.resampled(how)
        usable = errors > 1e-9 * error  # a resample of equal values has no t statistic
        drawn = np.quantile((ratios[usable] - ratio) / errors[usable], tails(how.level))
        low, high = min(low, drawn[0]), max(high, drawn[1])
    return float(ratio - high * error), float(ratio - low * error)


def _percentile(totals: Totals, how: Bootstrap) -> tuple[float, float]:
    low, high = np.quantile(totals.resampled(how)[0], tails(how.level))
    return float(low), float(high)


def _bca(totals: Totals, how: Bootstrap) -> tuple[float, float]:
    """Quantiles shifted by the bias z0 and the acceleration a (from the jackknife)."""
    normal, drawn = NormalDist(), totals.resampled(how)[0]
    below = ((drawn < totals.ratio).mean() + (drawn <= totals.ratio).mean()) / 2
    z0 = normal.inv_cdf(float(np.clip(below, 1 / (len(drawn) + 1), len(drawn) / (len(drawn) + 1))))
    without = (totals.sums.sum() - totals.sums) / (totals.counts.sum() - totals.counts)
    spread = without.mean() - without
    scale = (spread**2).sum() ** 1.5
    a = 0.0 if scale == 0 else float((spread**3).sum() / (6 * scale))

    def share(tail: float) -> float:
        z = z0 + normal.inv_cdf(tail)
        return normal.cdf(z0 + z / (1 - a * z))

    low, high = np.quantile(drawn, [share(tail) for tail in tails(how.level)])
    return float(low), float(high)


ENDS = {"studentised": _studentised, "bca": _bca, "percentile": _percentile}
