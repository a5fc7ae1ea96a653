"""Choosing rank and sparsity of a factorisation, by reconstruction of held-out rows and by stability over seeds.

    score = held-out explained variance x mean matched cosine between seeds

Reconstruction alone always prefers more features, stability alone fewer. Their product measures the variance explained
by features that another seed finds too. The whole curve is returned, so that another criterion can be used.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.features.matching import matched_cosines
from trimtab.steering.features.snmf import SNMF, Factors, explained_variance, fit_snmf, transform

FitProgress = Callable[[int, int], None]  # fits done, fits in all


@dataclass(frozen=True)
class Candidate:
    """One point of the curve, means over seeds. explained: of the fit's rows; held_out: of other rows; stability: mean
    cosine of features matched between seeds, over pairs of seeds; found_again: share of them above 0.9."""

    rank: int
    sparsity: float | None
    explained: float
    held_out: float
    stability: float
    found_again: float

    @property
    def score(self) -> float:
        """What is explained by features that are found again."""
        return max(self.held_out, 0.0) * max(self.stability, 0.0)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "score": self.score}


@dataclass(frozen=True)
class Grid:
    """ranks x sparsities, each fitted from `seeds` starts."""

    ranks: Sequence[int]
    sparsities: Sequence[float | None]
    seeds: int = 2

    def __post_init__(self) -> None:
        if self.seeds < 2 or not self.ranks or not self.sparsities:
            raise SteeringError(
                f"a curve needs a rank, a sparsity and at least 2 seeds; given {len(self.ranks)}, "
                f"{len(self.sparsities)} and {self.seeds}"
            )


def rank_curve(
    rows: Float[Tensor, "n d"],
    held_out: Float[Tensor, "m d"],
    grid: Grid,
    settings: SNMF = SNMF(),  # noqa: B008 (frozen)
    progress: FitProgress = lambda done, total: None,
) -> tuple[Candidate, ...]:
    """Fit and score every point of the grid. held_out: rows of texts that are not in the fit (other tokens of the same
    texts would be too similar)."""
    points = [(rank, sparsity) for sparsity in grid.sparsities for rank in grid.ranks]
    candidates, total = [], len(points) * grid.seeds
    for number, (rank, sparsity) in enumerate(points):
        fits = []
        for seed in range(grid.seeds):
            variant = replace(settings, rank=rank, sparsity=sparsity, seed=settings.seed + seed * settings.restarts)
            fits.append(fit_snmf(rows, variant))
            progress(number * grid.seeds + seed + 1, total)
        candidates.append(_candidate(fits, held_out, rank, sparsity))
    return tuple(candidates)


def chosen(curve: Sequence[Candidate]) -> Candidate:
    """The best score; the smaller rank when two are equal."""
    return max(curve, key=lambda c: (c.score, -c.rank))


def _candidate(fits: Sequence[Factors], held_out: Float[Tensor, "m d"], rank: int, sparsity: float | None) -> Candidate:
    rebuilt = [explained_variance(held_out, f.features, transform(held_out, f.features)) for f in fits]
    cosines = np.concatenate([matched_cosines(a.features, b.features)[1] for a, b in combinations(fits, 2)])
    return Candidate(
        rank=rank,
        sparsity=sparsity,
        explained=float(np.mean([f.report.explained for f in fits])),
        held_out=float(np.mean(rebuilt)),
        stability=float(cosines.mean()),
        found_again=float((cosines > 0.9).mean()),
    )
