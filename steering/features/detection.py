"""Concept detection: how well a feature separates sentences about a concept from all others.

    score of a sentence = max over its tokens of cosine(feature, activation)

Source: Shafran et al. 2025, arXiv 2506.10920. A concept's feature is selected on one half of the sentences, and its
AUROC is reported on the other. The null repeats this with shuffled labels, selection included, so it shows the AUROC
that the best of many features reaches by chance.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy  # its `stats` is imported where it is first used: it takes 0.7 s
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.features.matching import unit_columns
from trimtab.steering.statistics import auroc_interval, auroc_of_ranks

NULLS = 100


@dataclass(frozen=True)
class Detected:
    """concept: its best feature, chosen on the fit half. auroc: on the held-out half, with a bootstrap interval over
    sentences. null, null_p95: mean and 95th percentile of the same with shuffled labels. log_ratio: log of the mean
    score of the concept's sentences over that of the rest, held out (the paper's number); None when a mean is not
    above 0. n: held-out sentences of the concept and of the rest."""

    concept: str
    feature: int
    auroc: float
    low: float
    high: float
    null: float
    null_p95: float
    log_ratio: float | None
    n: tuple[int, int]

    @property
    def beats_null(self) -> bool:
        return self.auroc > self.null_p95

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "beats_null": self.beats_null}


def sentence_scores(
    rows: Float[Tensor, "n d"], offsets: np.ndarray, features: Float[Tensor, "d k"]
) -> Float[np.ndarray, "s k"]:
    """The largest cosine of any token with each feature. offsets: `[s + 1]`, where each sentence's rows begin."""
    cosines = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)) @ unit_columns(features)
    edges = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    if any(a >= b for a, b in edges):
        raise SteeringError("a sentence has no row, so it has no score; leave it out, or capture more of its tokens")
    return torch.stack([cosines[a:b].amax(0) for a, b in edges]).cpu().numpy()


def detect(
    scores: Float[np.ndarray, "s k"], labels: Sequence[str], held_out: np.ndarray, nulls: int = NULLS, seed: int = 0
) -> tuple[Detected, ...]:
    """Each concept against all other sentences. held_out: `[s]` bool. Raises SteeringError when a half lacks one."""
    names, draw = np.asarray(labels), np.random.default_rng(seed)
    rank = scipy.stats.rankdata
    halves = _Halves(rank(scores[~held_out], axis=0), scores[held_out], rank(scores[held_out], axis=0))
    detections = []
    for concept in sorted(set(labels)):
        inside, outside = (names == concept)[~held_out], (names == concept)[held_out]
        _check_both_kinds(concept, inside, outside)
        detections.append(_detected(concept, halves, (inside, outside), nulls, draw))
    return tuple(detections)


@dataclass(frozen=True, eq=False)
class _Halves:
    """fit: ranks of the scores to choose on. rest, ranks: held-out scores and their ranks. All `[s k]`."""

    fit: np.ndarray
    rest: np.ndarray
    ranks: np.ndarray


def _detected(
    concept: str, halves: _Halves, masks: tuple[np.ndarray, np.ndarray], nulls: int, draw: np.random.Generator
) -> Detected:
    inside, outside = masks
    best = int(auroc_of_ranks(halves.fit, inside).argmax())
    luck = [_shuffled(halves, inside, outside, draw) for _ in range(nulls)]
    low, high = auroc_interval(halves.rest[:, best], outside, draw)
    return Detected(
        concept,
        best,
        float(auroc_of_ranks(halves.ranks[:, [best]], outside)[0]),
        low,
        high,
        float(np.mean(luck)),
        float(np.quantile(luck, 0.95)),
        _log_ratio(halves.rest[:, best], outside),
        (int(outside.sum()), int((~outside).sum())),
    )


def _check_both_kinds(concept: str, inside: np.ndarray, outside: np.ndarray) -> None:
    for half, mask in (("fit", inside), ("held-out", outside)):
        if not 0 < mask.sum() < len(mask):
            raise SteeringError(
                f"concept '{concept}': {int(mask.sum())} of {len(mask)} sentences in the {half} half; both kinds are "
                f"needed"
            )


def _shuffled(halves: _Halves, inside: np.ndarray, outside: np.ndarray, draw: np.random.Generator) -> float:
    best = int(auroc_of_ranks(halves.fit, draw.permutation(inside)).argmax())
    return float(auroc_of_ranks(halves.ranks[:, [best]], draw.permutation(outside))[0])


def _log_ratio(scores: np.ndarray, positive: np.ndarray) -> float | None:
    high, low = float(scores[positive].mean()), float(scores[~positive].mean())
    return float(np.log(high / low)) if high > 0 and low > 0 else None
