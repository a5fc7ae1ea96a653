"""The first G `[n k]` of a factorisation, never negative. F follows from it in the first iteration."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import UnknownName
from trimtab.steering.features.blocks import SurveyedRows

STARTS = ("random", "svd", "kmeans")
SAMPLE = 20_000  # rows on which centres are found
LIFT = 0.02  # an exact zero never moves; Ding et al. raise indicators by 0.2, which leaves every feature always on
SOFT = 0.1  # of a singular vector's mean absolute value, for the same reason


def begin(data: SurveyedRows, start: str, seed: int, into: Float[Tensor, "n k"]) -> None:
    """Fill `into` with the first G. random: uniform in [0, 1) (the paper's). svd: both signs of the leading singular
    vectors; does not depend on the order of the rows. kmeans: the cluster of each row. Raises UnknownName."""
    if start not in STARTS:
        raise UnknownName("start", start, STARTS)
    {"random": _random, "svd": _svd, "kmeans": _kmeans}[start](data, seed, into)


def _random(data: SurveyedRows, seed: int, into: Tensor) -> None:
    draw = np.random.default_rng(seed)  # its stream does not depend on how rows are cut into blocks
    for where, _ in data:
        into[where] = _uniform(draw, where.stop - where.start, into)


def _uniform(draw: np.random.Generator, rows: int, like: Tensor) -> Tensor:
    return torch.from_numpy(draw.random((rows, like.shape[1]), dtype=np.float32)).to(like.device)


def _svd(data: SurveyedRows, seed: int, into: Tensor) -> None:
    axes = leading_axes(data, -(-into.shape[1] // 2))
    draw, k = np.random.default_rng(seed), into.shape[1]
    for where, rows in data:
        projections = rows @ axes
        both = torch.stack([projections, -projections], dim=2).flatten(1)[:, :k]  # +1, -1, +2, -2, ...
        into[where, : both.shape[1]] = both.clamp_min(0).to(into.device)
        if both.shape[1] < k:  # more features than there are signed axes
            rest = into[where, both.shape[1] :]
            into[where, both.shape[1] :] = _uniform(draw, len(rest), rest)
    into += SOFT * into.mean(0)


def leading_axes(data: SurveyedRows, count: int) -> Float[Tensor, "d r"]:
    """The leading right singular vectors of the rows, about zero, `r <= count`; from one pass."""
    scatter = torch.zeros(data.d, data.d, dtype=torch.float64, device=data.device)
    for _, rows in data:
        scatter += rows.T @ rows
    count = min(count, data.n, data.d)
    return torch.linalg.eigh(scatter).eigenvectors[:, -count:].flip(1).float()


def _kmeans(data: SurveyedRows, seed: int, into: Tensor) -> None:
    every = max(1, -(-data.n // SAMPLE))
    sample = torch.cat([rows[(-where.start) % every :: every].cpu() for where, rows in data])
    count = min(into.shape[1], len(sample))
    from sklearn.cluster import MiniBatchKMeans  # takes more than a second, and recipes import this file

    centres = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=1024).fit(sample.numpy())
    centroids = torch.from_numpy(centres.cluster_centers_).float().to(data.device)
    for where, rows in data:
        nearest = torch.cdist(rows, centroids).argmin(1)
        into[where] = LIFT
        into[where, : len(centroids)] += torch.nn.functional.one_hot(nearest, len(centroids)).to(into)
