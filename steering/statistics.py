"""Intervals over texts, paired where two things were measured on the same texts, and placebo ranks.

The unit that is resampled is what was drawn independently: a text, not its tokens, and a prompt with all of its texts
(a cluster), not each text by itself. Anything finer gives intervals that are far too narrow: 40 answers to 10 prompts,
half of their variance the prompt's, had a "95%" interval that held the truth 75% of the time.

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

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import betaincinv, ndtr, stdtrit
from scipy.stats import rankdata

from trimtab.steering.errors import SteeringError, UnknownName

METHODS = ("studentised", "bca", "percentile")
FEW_RESAMPLED = 5  # below, resamples are too few to tell the shape of the t statistic
COLUMN_DRAWS = 1000
_CHUNK = 4_000_000  # resampled numbers held at once


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
    totals = _Totals.of(sums, counts, groups[some])
    if len(totals.sums) < 2:
        raise SteeringError(
            f"all {n} values belong to one prompt, so they say nothing about other prompts; give at least 2 prompts"
        )
    low, high = _ENDS[how.method](totals, how)
    estimate = totals.ratio
    return Interval(estimate, min(low, estimate), max(high, estimate), n, how.level, len(totals.sums))


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
    low, high = np.quantile((above / below)[below > 0], _tails(how.level))
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


def auroc(scores: Float[np.ndarray, "n ..."], positive: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "..."]:
    """Area under the receiver operating characteristic, of every column: the chance that a positive scores above a
    negative, a tie counted half (Mann and Whitney 1947)."""
    return auroc_of_ranks(rankdata(scores, axis=0), positive)


def auroc_of_ranks(ranks: Float[np.ndarray, "n ..."], positive: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "..."]:
    """`auroc` from the ranks of the scores, for many labellings of the same scores."""
    p, q = int(positive.sum()), int((~positive).sum())
    return np.asarray((ranks[positive].sum(0) - p * (p + 1) / 2) / (p * q))


def auroc_interval(
    scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"], generator: np.random.Generator, draws: int = 500
) -> tuple[float, float]:
    """Low and high end of the 95% percentile interval of `auroc`, positives and negatives resampled apart."""
    high, low = scores[positive], scores[~positive]
    labels = np.arange(len(scores)) < len(high)
    areas = []
    for _ in range(draws):
        drawn = generator.choice(high, len(high)), generator.choice(low, len(low))
        areas.append(auroc(np.concatenate(drawn), labels))
    return float(np.quantile(areas, 0.025)), float(np.quantile(areas, 0.975))


def cluster_numbers(labels: Sequence[Hashable] | range) -> np.ndarray:
    """`[n]` numbers from 0, equal where the labels are equal, in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def rank_p_value(observed: float, placebos: Sequence[float]) -> float:
    """(1 + placebos at least as large) / (1 + placebos): the chance that a placebo drawn like these is as good.

    19 placebos are the fewest that can reach 0.05 (Phipson and Smyth 2010, "Permutation p-values should never be
    zero").
    """
    values = np.asarray(placebos, dtype=np.float64)
    return float((1 + (values >= observed).sum()) / (1 + len(values)))


@dataclass(frozen=True, eq=False)
class _Totals:
    """Sums and counts of every cluster, `[n]` each."""

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray, counts: np.ndarray, groups: np.ndarray) -> "_Totals":
        totals, tokens = np.bincount(groups, sums), np.bincount(groups, counts)
        return cls(totals[tokens > 0], tokens[tokens > 0])

    @property
    def ratio(self) -> float:
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


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _studentised(totals: _Totals, how: Bootstrap) -> tuple[float, float]:
    """Ends by the bootstrapped t statistic, and by Student's where that is further out."""
    ratio, error, n = totals.ratio, totals.error, len(totals.sums)
    low, high = stdtrit(n - 1, _tails(how.level))
    if error > 0 and n >= FEW_RESAMPLED:
        ratios, errors = totals.resampled(how)
        usable = errors > 1e-9 * error  # a resample of equal values has no t statistic
        drawn = np.quantile((ratios[usable] - ratio) / errors[usable], _tails(how.level))
        low, high = min(low, drawn[0]), max(high, drawn[1])
    return float(ratio - high * error), float(ratio - low * error)


def _percentile(totals: _Totals, how: Bootstrap) -> tuple[float, float]:
    low, high = np.quantile(totals.resampled(how)[0], _tails(how.level))
    return float(low), float(high)


def _bca(totals: _Totals, how: Bootstrap) -> tuple[float, float]:
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

    low, high = np.quantile(drawn, [share(tail) for tail in _tails(how.level)])
    return float(low), float(high)


_ENDS = {"studentised": _studentised, "bca": _bca, "percentile": _percentile}
