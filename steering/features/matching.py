"""Matching the features of two fits, and their similarity."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def unit_columns(features: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Each feature divided by its norm; a dead one stays zero."""
    return features / features.norm(dim=0).clamp_min(1e-30)


def matched_cosines(
    one: Float[Tensor, "d k"], other: Float[Tensor, "d j"]
) -> tuple[np.ndarray, Float[np.ndarray, "m"]]:
    """The assignment of features to features with the largest sum of cosines (Hungarian algorithm), m = min(k, j).

    Returns pairs `[m 2]` (column of `one`, column of `other`) and their cosines `[m]`. Signs count: a feature and its
    opposite are not the same, since activations are never negative.
    """
    cosines = (unit_columns(one).T @ unit_columns(other)).cpu().numpy()
    rows, columns = linear_sum_assignment(-cosines)
    return np.stack([rows, columns], 1), cosines[rows, columns]
