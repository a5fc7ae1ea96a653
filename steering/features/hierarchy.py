"""Hierarchy: recursive SNMF. The features of one level are the rows of the next, so that a coarse feature is a
nonnegative mixture of fine ones.

    X ~ G F_1^T ,  F_1^T ~ W_2 F_2^T ,  F_2^T ~ W_3 F_3^T , ...      W_j >= 0

Source: Shafran et al. 2025, arXiv 2506.10920 (its ranks: 400, 200, 100, 50). The optional joint fine-tuning of the
released code is left out: it has no constraint, so the weights would no longer be nonnegative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.features.snmf import SNMF, fit_snmf

SHARE = 0.15  # of a parent's largest weight: what a child must have
CHILDREN = 4


@dataclass(frozen=True, eq=False)
class Level:
    """weights: `[children parents]`, never negative. features: the parents, `[d parents]`."""

    weights: Float[Tensor, "c p"]
    features: Float[Tensor, "d p"]

    def arrays(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights.cpu().numpy(), "features": self.features.cpu().numpy()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> "Level":
        tensors = (torch.from_numpy(np.array(arrays[prefix + name])) for name in ("weights", "features"))
        return cls(*tensors)


@dataclass(frozen=True)
class Branch:
    """A parent with its children, by weight. shared: neurons that all of the children have."""

    parent: int
    children: tuple[int, ...]
    weights: tuple[float, ...]
    shared: tuple[int, ...]


def build_levels(features: Float[Tensor, "d k"], ranks: Sequence[int], settings: SNMF) -> tuple[Level, ...]:
    """Levels above `features`, one per rank, by factorising each level's features of norm 1 (a frequent feature is
    not a wider one). Raises SteeringError when ranks do not fall."""
    levels: list[Level] = []
    below = features
    for rank in ranks:
        if not 1 <= rank < below.shape[1]:
            raise SteeringError(f"hierarchy: rank {rank} above {below.shape[1]} features; each level has fewer")
        unit = below / below.norm(dim=0).clamp_min(1e-30)
        factors = fit_snmf(unit.T.contiguous(), replace(settings, rank=rank))
        levels.append(Level(factors.activations, factors.features))
        below = factors.features
    return tuple(levels)


def branches(level: Level, below: Float[Tensor, "d c"]) -> tuple[Branch, ...]:
    """The tree of one level: up to four children with at least 15% of the parent's largest weight; parents with fewer
    than two are left out."""
    tree = []
    for parent in range(level.weights.shape[1]):
        column = level.weights[:, parent]
        values, order = column.topk(min(CHILDREN, len(column)))
        links = [(int(c), float(v)) for v, c in zip(values, order, strict=True) if v > 0 and v >= SHARE * values[0]]
        if len(links) < 2:
            continue
        children = tuple(c for c, _ in links)
        common = (below[:, list(children)] != 0).all(1).nonzero()[:, 0]
        tree.append(Branch(parent, children, tuple(w for _, w in links), tuple(common.tolist())))
    return tuple(tree)
