"""Statistics of the columns of rows [n, d] in one pass: mean and covariance, and quantiles. Both can be merged, so that
chunks, or workers, each count their own rows."""

from dataclasses import dataclass

import numpy as np

ACCURACY = 0.01  # relative error of a quantile
SMALLEST, LARGEST = 1e-6, 1e6  # magnitudes; smaller ones count as zero, larger ones as the largest
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)  # upper over lower bound of a bucket
HALF = int(np.ceil(np.log(LARGEST / SMALLEST) / np.log(GAMMA)))  # buckets of one sign


@dataclass(frozen=True)
class Moments:
    """Count, mean and covariance of rows of width d, in float64.

    count: rows seen.  mean [d].  scatter [d d]: sum of outer products of deviations from the mean.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @staticmethod
    def of(rows: np.ndarray) -> "Moments":
        """The moments of rows [n, d]."""
        values = rows.astype(np.float64)
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        values -= mean
        return Moments(len(values), mean, values.T @ values)

    @property
    def covariance(self) -> np.ndarray:
        """[d d], unbiased (divided by count - 1; by 1 for a single row)."""
        return self.scatter / max(1, self.count - 1)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows together (Chan, Golub & LeVeque 1979, the parallel update)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        weight = self.count * other.count / count
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.scatter + other.scatter + weight * np.outer(delta, delta),
        )


@dataclass(frozen=True)
class Quantiles:
    """Counts of values by sign and logarithm of magnitude (DDSketch; Masson, Rim & Lee 2019).

    Every quantile is within 1% of the value that was seen at its rank, for magnitudes from 1e-6 to 1e6. About 22 kB a
    column, and merging loses nothing.

    counts [d, 2 HALF + 1]: per column, from the largest negative bucket over zero to the largest positive one.
    """

    counts: np.ndarray

    @staticmethod
    def empty(width: int) -> "Quantiles":
        """The counts of no rows of this width."""
        return Quantiles(np.zeros((width, 2 * HALF + 1), np.int64))

    @staticmethod
    def of(rows: np.ndarray) -> "Quantiles":
        """The counts of rows [n, d]."""
        size = np.abs(rows.astype(np.float64))
        bucket = np.ceil(np.log(np.maximum(size, SMALLEST) / SMALLEST) / np.log(GAMMA))
        signed = np.where(size < SMALLEST, 0, np.clip(bucket, 1, HALF) * np.sign(rows)).astype(np.int64) + HALF
        width, buckets = rows.shape[1], 2 * HALF + 1
        flat = (signed + np.arange(width) * buckets).reshape(-1)
        return Quantiles(np.bincount(flat, minlength=width * buckets).reshape(width, buckets))

    def merge(self, other: "Quantiles") -> "Quantiles":
        """The counts of both sets of rows together; the same in any order."""
        return Quantiles(self.counts + other.counts)

    def at(self, share: float) -> np.ndarray:
        """float64 [d]: the value below which this share of each column lies (0 gives the least, 1 the greatest).

        Raises ValueError when nothing was counted, or `share` is not in 0..1.
        """
        total = int(self.counts[0].sum())
        if not 0 <= share <= 1 or total == 0:
            raise ValueError(f"share {share} of {total} rows: a quantile needs rows and a share from 0 to 1")
        rank = min(total - 1, int(share * total))
        bucket = (np.cumsum(self.counts, axis=1) > rank).argmax(axis=1) - HALF
        magnitude = 2 * GAMMA ** np.abs(bucket).astype(np.float64) / (GAMMA + 1) * SMALLEST
        return np.asarray(np.sign(bucket) * magnitude)
