"""SNMF: rows of activations as sparse, nonnegative mixtures of features, `X ~ G F^T`.

    F <- X^T G (G^T G)^-1        least squares
    F <- its largest entries     winner-take-all: a feature is a few neurons
    G <- G / |G_k|, F <- F |G_k|
    G <- G sqrt((P+ + G Q-) / (P- + G Q+)),   P = X F,  Q = F^T F

Source: Shafran, Geiger and Geva 2025, arXiv 2506.10920; tests/originals/test_snmf.py holds its loop, written anew.
What differs, and why: the loss comes from sums that the update needs anyway (|X - G F^T| is never formed, which saves
a third of the products and an `[n d]` array); the tolerance is relative to the loss; entries of G have a floor; ties
never keep more than asked; and the best pair is a copy, so that later iterations cannot change it. One pass over the
rows an iteration, in blocks: `streaming.py` runs this same loop on rows that do not fit in memory.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadRows, SteeringError, UnknownName
from trimtab.steering.features.blocks import InMemory, SurveyedRows, as_rows, survey
from trimtab.steering.features.init import STARTS, begin
from trimtab.steering.features.updates import (
    FLOOR,
    norms,
    refitted,
    solved_features,
    split,
    updated_activations,
    winners,
)

IterationProgress = Callable[[int, int, float], None]  # iterations done, at most, explained variance so far
RESOLUTION = 1e-7  # of the sum of squares: float32 sums cannot see a smaller loss
TRANSFORM_STEPS = 50


@dataclass(frozen=True)
class SNMF:
    """Settings. rank: features. sparsity: share of a feature's entries that winner-take-all keeps, None for all.

    start: random, svd or kmeans. seed: of the start; restart r uses seed + r, the lowest loss is kept. It ends after
    `patience` iterations that together lower the best loss by less than `tolerance` of it. inner: updates of G per
    update of F; the paper has 1, more cost little (they read no rows) and reach the same loss in fewer passes. refit:
    sweeps of least squares over the entries that winner-take-all kept; the paper has 0 (docs/benchmarks has both).
    """

    rank: int = 100
    sparsity: float | None = 0.01
    start: str = "random"
    seed: int = 0
    restarts: int = 1
    max_iterations: int = 300
    tolerance: float = 1e-3
    patience: int = 20
    inner: int = 4
    refit: int = 1

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise UnknownName("start", self.start, STARTS)
        if self.sparsity is not None and not 0 < self.sparsity <= 1:
            raise SteeringError(f"snmf: sparsity is {self.sparsity}, but it is the share of entries kept, in (0, 1]")
        for name, least in {
            "rank": 1,
            "restarts": 1,
            "max_iterations": 1,
            "patience": 1,
            "inner": 1,
            "refit": 0,
        }.items():
            if getattr(self, name) < least:
                raise SteeringError(f"snmf: {name} is {getattr(self, name)}; it counts from {least}")
        if not 0 <= self.tolerance < 1:
            raise SteeringError(f"snmf: tolerance is {self.tolerance}; it is a share of the loss, in [0, 1)")

    def keep(self, d: int) -> int:
        """Entries that each feature of width d keeps."""
        return d if self.sparsity is None else math.ceil(self.sparsity * d)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FitReport:
    """losses: |X - G F^T|^2 / |X|^2 after every iteration. explained: 1 - loss / variance about the mean row, at the
    best iteration (from 0). rows, width: of the data. seed: of the restart that was kept. converged: it ended by
    itself."""

    losses: tuple[float, ...]
    explained: float
    best: int
    rows: int
    width: int
    seed: int
    converged: bool

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "losses": list(self.losses)}


@dataclass(frozen=True, eq=False)
class Factors:
    """features: F `[d k]`, in units of the rows, largest share of the rows first. activations: G `[n k]`, never
    negative, each column with root mean square 1."""

    features: Float[Tensor, "d k"]
    activations: Float[Tensor, "n k"]
    report: FitReport


@dataclass(frozen=True, eq=False)
class Buffers:
    """Two G `[n k]`: the best one and the one that is worked on."""

    one: Float[Tensor, "n k"]
    other: Float[Tensor, "n k"]


def fit_snmf(rows: Float[Tensor, "n d"], settings: SNMF = SNMF(), progress: IterationProgress | None = None) -> Factors:
    """Factorise rows that fit in memory, on their device, in float32. The rows are not changed.

    Raises BadRows (fewer than 2 rows, only zeros, values not finite).
    """
    data = survey(InMemory(as_rows(rows)))
    empty = torch.empty(data.n, settings.rank, device=data.device)
    return factorise(data, settings, Buffers(empty, torch.empty_like(empty)), progress)


def factorise(
    data: SurveyedRows, settings: SNMF, buffers: Buffers, progress: IterationProgress | None = None
) -> Factors:
    """The loop, over restarts. The result's activations are one of the buffers."""
    best: Factors | None = None
    for restart in range(settings.restarts):
        factors = _Run(data, replace(settings, seed=settings.seed + restart), buffers).fit(progress)
        if best is None or factors.report.losses[factors.report.best] < best.report.losses[best.report.best]:
            last = restart + 1 == settings.restarts
            best = factors if last else replace(factors, activations=factors.activations.clone())
    assert best is not None
    return best


class _Run:
    """One start, iterated."""

    def __init__(self, data: SurveyedRows, settings: SNMF, buffers: Buffers):
        self.data, self.settings = data, settings
        self.current, self.spare = buffers.one, buffers.other
        self.losses: list[float] = []
        self.features = torch.empty(0)
        self.best, self.mark, self.stale = -1, math.inf, 0

    def fit(self, progress: IterationProgress | None) -> Factors:
        begin(self.data, self.settings.start, self.settings.seed, self.current)
        cross, gram = self._sums_of_start()
        best_buffer = None
        while len(self.losses) < self.settings.max_iterations and not self._over():
            lengths = norms(gram)
            features = self._solved(cross, gram) * lengths
            # The best G must survive this pass; any other may be overwritten.
            target = self.spare if best_buffer is self.current else self.current
            cross, gram, loss = self._pass(features, lengths, target)
            self.current, self.spare = target, (self.spare if target is self.current else self.current)
            best_buffer = self._note(loss, features, best_buffer)
            if progress is not None:
                progress(len(self.losses), self.settings.max_iterations, self._explained())
        assert best_buffer is not None
        return self._finished(best_buffer)

    def _solved(self, cross: Tensor, gram: Tensor) -> Tensor:
        features = winners(solved_features(cross, gram), self.settings.keep(self.data.d))
        if self.settings.refit and self.settings.sparsity is not None:
            return refitted(features, cross, gram, self.settings.refit)
        return features

    def _sums_of_start(self) -> tuple[Tensor, Tensor]:
        cross, gram = self._zeros()
        for where, rows in self.data:
            g = self.current[where].to(rows.device)
            cross += rows.T @ g
            gram += g.T @ g
        return cross, gram

    def _pass(self, features: Tensor, lengths: Tensor, target: Tensor) -> tuple[Tensor, Tensor, float]:
        """Update G for these features into `target`; the sums for the next features, and the loss."""
        cross, gram = self._zeros()
        inner = features.T @ features
        parts, floor, along = split(inner), FLOOR / math.sqrt(self.data.n), 0.0
        for where, rows in self.data:
            inner_products = rows @ features
            g = self.current[where].to(rows.device) / lengths
            for _ in range(self.settings.inner):
                g = updated_activations(g, inner_products, parts, floor)
            cross += rows.T @ g
            gram += g.T @ g
            along += float(inner_products.mul_(g).sum(dtype=torch.float64))
            target[where] = g.to(target.device)
        loss = self.data.total - 2 * along + float((inner.double() * gram).sum())
        return cross, gram, max(loss, 0.0) / self.data.total

    def _zeros(self) -> tuple[Tensor, Tensor]:
        """A float64 sum over blocks: over a million rows, a float32 sum would lose its last digits."""
        k, d, device = self.settings.rank, self.data.d, self.data.device
        return torch.zeros(d, k, dtype=torch.float64, device=device), torch.zeros(
            k, k, dtype=torch.float64, device=device
        )

    def _note(self, loss: float, features: Tensor, best_buffer: Tensor | None) -> Tensor | None:
        """Remember an iteration; returns the buffer that holds the best G."""
        if not math.isfinite(loss):
            raise BadRows(f"the factorisation diverged after {len(self.losses)} iterations; use a smaller rank")
        self.losses.append(loss)
        if loss < self.mark * (1 - self.settings.tolerance):
            self.mark, self.stale = loss, 0
        else:
            self.stale += 1
        if self.best >= 0 and loss >= self.losses[self.best]:
            return best_buffer
        self.best, self.features = len(self.losses) - 1, features.clone()
        return self.current

    def _over(self) -> bool:
        return self.stale >= self.settings.patience or bool(self.losses and self.losses[-1] < RESOLUTION)

    def _explained(self) -> float:
        variance = self.data.variance / self.data.total
        return 1 - self.losses[self.best] / variance if variance > 0 else 0.0

    def _finished(self, activations: Tensor) -> Factors:
        """Columns of G brought to root mean square 1, features in the rows' own units, the largest first."""
        squares = torch.zeros(self.settings.rank, dtype=torch.float64)
        for piece in activations.split(65536):
            squares += piece.square().sum(0, dtype=torch.float64).cpu()
        rms = (squares / self.data.n).sqrt().float()
        rms = torch.where(rms > 0, rms, torch.ones_like(rms)).to(activations.device)
        features = self.features * rms.to(self.features.device)
        order = features.norm(dim=0).argsort(descending=True, stable=True)
        for piece in activations.split(65536):  # in place: a second [n k] may not fit
            piece.copy_((piece / rms)[:, order.to(piece.device)])
        converged = self._over()
        report = FitReport(
            tuple(self.losses),
            self._explained(),
            self.best,
            self.data.n,
            self.data.d,
            self.settings.seed,
            converged,
        )
        return Factors(features[:, order] * self.data.scale, activations, report)


def transform(
    rows: Float[Tensor, "n d"], features: Float[Tensor, "d k"], steps: int = TRANSFORM_STEPS
) -> Float[Tensor, "n k"]:
    """G `[n k]` of new rows for fixed features: nonnegative least squares by the same update, started from the
    unconstrained solution with negative entries set to 0. Each row's result is independent of the other rows."""
    scale = features.norm(dim=0).clamp_min(1e-30)
    unit = features / scale
    inner = unit.T @ unit
    inverse = torch.linalg.pinv(inner.double(), rcond=1e-6, hermitian=True).float()
    parts, activations = split(inner), []
    for block in as_rows(rows).split(8192):
        size = block.norm(dim=1, keepdim=True).clamp_min(1e-30)
        inner_products = (block / size) @ unit
        g = (inner_products @ inverse).clamp_min(0) + 1e-3 * inner_products.clamp_min(0) + FLOOR
        for _ in range(steps):
            g = updated_activations(g, inner_products, parts)
        activations.append(g * size / scale)
    return torch.cat(activations)


def explained_variance(
    rows: Float[Tensor, "n d"], features: Float[Tensor, "d k"], activations: Float[Tensor, "n k"]
) -> float:
    """1 - |X - G F^T|^2 / |X - mean|^2, on any rows."""
    off = sum(
        float((x - g @ features.T).square().sum(dtype=torch.float64))
        for x, g in zip(rows.split(8192), activations.split(8192), strict=True)
    )
    about = float((rows - rows.mean(0)).square().sum(dtype=torch.float64))
    return 1 - off / about if about > 0 else 0.0
