"""Quantiles of each column in one pass, in little memory, and mergeable between workers without any loss."""

from dataclasses import dataclass

import numpy as np

ACCURACY = 0.01
SMALLEST, LARGEST = 1e-6, 1e6  # magnitudes; smaller ones count as zero, larger ones as the largest
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
HALF = int(np.ceil(np.log(LARGEST / SMALLEST) / np.log(GAMMA)))


@dataclass(frozen=True)
class Quantiles:
    """Counts of values by sign and logarithm of magnitude (DDSketch; Masson, Rim & Lee 2019): every quantile is a value
    within 1% of one that was seen at its rank, down to 1e-6. About 22 kB a column.

    counts: [d, 2 HALF + 1], from the largest negative bucket over zero to the largest positive one.
    """

    counts: np.ndarray

    @staticmethod
    def nothing(width: int) -> "Quantiles":
        """Of no rows at all."""
        return Quantiles(np.zeros((width, 2 * HALF + 1), np.int64))

    @staticmethod
    def of(rows: np.ndarray) -> "Quantiles":
        """Of rows [n, d]."""
        size = np.abs(rows.astype(np.float64))
        bucket = np.ceil(np.log(np.maximum(size, SMALLEST) / SMALLEST) / np.log(GAMMA))
        signed = np.where(size < SMALLEST, 0, np.clip(bucket, 1, HALF) * np.sign(rows)).astype(np.int64) + HALF
        width, buckets = rows.shape[1], 2 * HALF + 1
        flat = (signed + np.arange(width) * buckets).reshape(-1)
        return Quantiles(np.bincount(flat, minlength=width * buckets).reshape(width, buckets))

    def merge(self, other: "Quantiles") -> "Quantiles":
        """Of both sets of rows together; the same in any order."""
        return Quantiles(self.counts + other.counts)

    def at(self, share: float) -> np.ndarray:
        """[d] the value below which this share of each column lies (0 the least, 1 the greatest).

        Raises ValueError when nothing was counted or `share` is not in 0..1.
        """
        total = int(self.counts[0].sum())
        if not 0 <= share <= 1 or total == 0:
            raise ValueError(f"share {share} of {total} rows: a quantile needs rows and a share from 0 to 1")
        rank = min(total - 1, int(share * total))
        bucket = (np.cumsum(self.counts, axis=1) > rank).argmax(axis=1) - HALF
        middle = 2 * GAMMA ** np.abs(bucket).astype(np.float64) / (GAMMA + 1) * SMALLEST
        return np.sign(bucket) * middle
