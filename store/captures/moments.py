"""Count, mean and covariance in one pass, stable, and mergeable between workers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """Moments of rows of width d, in float64.

    count: rows seen.  mean [d].  scatter [d d]: sum of outer products of deviations from the mean.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @staticmethod
    def of(rows: np.ndarray) -> "Statistics":
        """The moments of rows [n, d]."""
        values = rows.astype(np.float64)
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        values -= mean
        return Statistics(len(values), mean, values.T @ values)

    @property
    def covariance(self) -> np.ndarray:
        """[d d], unbiased (divided by count - 1; by 1 for a single row)."""
        return self.scatter / max(1, self.count - 1)

    def merge(self, other: "Statistics") -> "Statistics":
        """The moments of both sets of rows together (Chan, Golub & LeVeque 1979, the parallel update)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        weight = self.count * other.count / count
        return Statistics(
            count,
            self.mean + delta * (other.count / count),
            self.scatter + other.scatter + weight * np.outer(delta, delta),
        )
