"""P-values for the mean effects of many heads (sign-flip tests), and their correction for multiple testing."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from trimtab.steering.errors import SteeringError
from trimtab.steering.statistics import cluster_numbers

FLIPS = 20_000  # 270 heads at level 0.05 need p-values down to 0.0002


def sign_flip_p(
    differences: Float[np.ndarray, "questions n"],
    clusters: Sequence[Hashable] | None = None,
    flips: int = FLIPS,
    seed: int = 0,
) -> np.ndarray:
    """`[n]` two-sided p-values for the mean of paired differences being 0 (sign-flip test, Fisher 1935): the share of
    random sign assignments whose mean is at least as far from 0. The observed signs count as one assignment, so p is
    never 0. clusters: `[questions]` labels of questions that are not independent, such as those on one prompt; their
    signs are flipped together."""
    numbers = cluster_numbers(range(len(differences)) if clusters is None else clusters)
    differences = np.stack([np.bincount(numbers, column) for column in differences.T], axis=1)
    if len(differences) < 2:
        raise SteeringError(f"{len(differences)} paired difference has no test; ask on at least 2 prompts")
    draw = np.random.default_rng(seed)
    observed = np.abs(differences.sum(0))
    slack = 1e-12 * np.abs(differences).sum(0)
    as_far = np.ones(differences.shape[1])
    for start in range(0, flips, 1000):
        signs = draw.choice([-1.0, 1.0], size=(min(1000, flips - start), len(differences)))
        as_far += (np.abs(signs @ differences) >= observed - slack).sum(0)
    return as_far / (flips + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values that bound the chance of any false finding (Holm 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[order] = stepped
    return adjusted


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values that bound the share of false findings (Benjamini and Hochberg 1995)."""
    order = np.argsort(p)[::-1]
    stepped = np.minimum.accumulate(np.minimum(1.0, p[order] * len(p) / np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[order] = stepped
    return adjusted
