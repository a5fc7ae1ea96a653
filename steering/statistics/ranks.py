"""Ranks: how well scores tell two classes apart (AUROC), and how seldom a placebo is as good."""

from collections.abc import Sequence

import numpy as np
import scipy  # its `stats` is imported where it is first used: it takes 0.7 s
from jaxtyping import Bool, Float


def auroc(scores: Float[np.ndarray, "n ..."], positive: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "..."]:
    """Area under the receiver operating characteristic, of every column: the chance that a positive scores above a
    negative, a tie counted half (Mann and Whitney 1947)."""
    return auroc_of_ranks(scipy.stats.rankdata(scores, axis=0), positive)


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


def rank_p_value(observed: float, placebos: Sequence[float]) -> float:
    """(1 + placebos at least as large) / (1 + placebos): the chance that a placebo drawn like these is as good.

    19 placebos are the fewest that can reach 0.05 (Phipson and Smyth 2010, "Permutation p-values should never be
    zero").
    """
    values = np.asarray(placebos, dtype=np.float64)
    return float((1 + (values >= observed).sum()) / (1 + len(values)))
