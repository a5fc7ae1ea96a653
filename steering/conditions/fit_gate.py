"""Fit a gate: a probe on labelled prompts, at the site where it separates them best, with a threshold that opens it for
at most a stated share of unwanted prompts.

Three disjoint splits of prompts are used. The fit split determines direction and site (the site by cross-validation),
the validation split only the threshold, the report split only the reported rates. If the site were chosen on the
prompts that set the threshold, their scores would be too low by selection, and the gate would open too often: with 30
sites and 20 such prompts, gates with a nominal rate of 0.05 opened for 0.105.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.steering.conditions.prompts import Splits, readings
from trimtab.steering.errors import BadRows, UnknownName
from trimtab.steering.gates.base import Scored
from trimtab.steering.gates.cast import Cast
from trimtab.steering.gates.cosine import Cosine
from trimtab.steering.gates.linear import Linear
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.statistics import Interval, auroc, share_interval

KINDS = ("linear", "cosine", "cast")
FOLDS = 5  # of the cross-validation that chooses the site


@dataclass(frozen=True)
class GateSettings:
    """Settings of the fit. kind: of the gate's score ("linear", "cosine" or "cast"). false_positive_rate: largest share
    of unwanted prompts that may open the gate. pool: which tokens of a prompt are read ("last" or "mean"). C: inverse
    regularisation of the linear probe, on standardised coordinates."""

    kind: str = "linear"
    false_positive_rate: float = 0.05
    pool: str = "last"
    C: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName("gate", self.kind, KINDS)
        if not 0 < self.false_positive_rate < 1:
            raise BadRows(f"a false-positive rate of {self.false_positive_rate} is not between 0 and 1")


@dataclass(frozen=True)
class Rates:
    """Rates of a gate on prompts of the report split. true_positive, false_positive: share of wanted and of unwanted
    prompts that open it, with exact (Clopper-Pearson) intervals. auroc: probability that a wanted prompt scores above
    an unwanted one."""

    true_positive: Interval
    false_positive: Interval
    auroc: float


@dataclass(frozen=True, eq=False)
class GateFit:
    """gate; by_site: cross-validated AUROC on the fit prompts at every site tried; rates: on the report prompts;
    length_auroc: what the prompt's number of tokens alone would reach there (0.5 is chance)."""

    gate: Scored
    by_site: Mapping[str, float]
    rates: Rates
    length_auroc: float


def fit_gate(anatomy: Anatomy, splits: Splits, sites: Sequence[Site], settings: GateSettings) -> GateFit:
    """The gate at the site with the largest cross-validated AUROC on the fit prompts (the earliest of equals), opened
    as the validation prompts allow. Raises BadRows when these are too few for the rate asked."""
    rows = readings(anatomy, splits.fit.prompts, sites, settings.pool)
    by_site = {site: held_out_auroc(site, rows[site], splits.fit.wanted, settings) for site in sites}
    best = max(sites, key=lambda site: by_site[site])
    validation, held_out = (
        readings(anatomy, part.prompts, [best], settings.pool)[best] for part in (splits.validation, splits.report)
    )
    direction = oriented_gate(best, rows[best], splits.fit.wanted, settings)
    gate = opened_for(direction, validation[~splits.validation.wanted], settings.false_positive_rate)
    lengths = np.array([len(prompt) for prompt in splits.report.prompts], dtype=float)
    return GateFit(
        gate,
        {str(site): value for site, value in by_site.items()},
        rates_of(_scores(gate, held_out), splits.report.wanted, -gate.threshold if gate.below else gate.threshold),
        float(auroc(lengths, splits.report.wanted)),
    )


def held_out_auroc(
    site: Site, rows: Float[Tensor, "n d"], wanted: Bool[np.ndarray, "n"], settings: GateSettings
) -> float:
    """Cross-validated AUROC of gates on the fit split: the mean over FOLDS folds.

    A fold consists of consecutive prompts of each label. Prompts are often written in pairs that differ only in what
    matters; splitting a pair between the fold and the rest would make every site look better than it is.
    """
    folds = min(FOLDS, int(wanted.sum()), int((~wanted).sum()))
    fold = np.empty(len(wanted), dtype=int)
    for side in (wanted, ~wanted):
        fold[side] = np.arange(side.sum()) * folds // side.sum()
    aurocs = []
    for k in range(folds):
        rest, mine = fold != k, fold == k
        gate = oriented_gate(site, rows[torch.from_numpy(rest)], wanted[rest], settings)
        aurocs.append(auroc(_scores(gate, rows[torch.from_numpy(mine)]), wanted[mine]))
    return float(np.mean(aurocs))


def oriented_gate(
    site: Site, rows: Float[Tensor, "n d"], wanted: Bool[np.ndarray, "n"], settings: GateSettings
) -> Scored:
    """A gate fitted on rows with labels, with no threshold yet. When wanted prompts score lower than others, the gate
    is set to open below its threshold: the CAST score grows with the size of the projection, whatever its sign."""
    gate = _scorer(settings, site, rows, wanted)
    return replace(gate, below=bool(auroc(_scores(gate, rows), wanted) < 0.5))


def opened_for(gate: Scored, unwanted: Float[Tensor, "n d"], rate: float) -> Scored:
    """The gate with the threshold that new prompts like these pass with a chance of at most `rate` (see
    `threshold_for`); they must have had no part in choosing the gate or its site."""
    cut = threshold_for(_scores(gate, unwanted), rate)
    return replace(gate, threshold=-cut if gate.below else cut)


def threshold_for(unwanted: Float[np.ndarray, "n"], rate: float) -> float:
    """The lowest threshold that a new unwanted prompt exceeds with a chance of at most `rate`.

    The ceil((1 - rate)(n + 1))-th smallest score: for prompts that are exchangeable with these, the chance that a new
    one scores above it is at most `rate` (split conformal prediction; Vovk et al. 2005), whatever the distribution.
    Raises BadRows when n is too small to promise anything below the largest score.
    """
    n = len(unwanted)
    rank = math.ceil((1 - rate) * (n + 1) - 1e-9)
    if rank > n:
        raise BadRows(
            f"{n} unwanted validation prompts cannot promise a false-positive rate of {rate:g}: that takes "
            f"{math.ceil(1 / rate - 1e-9) - 1} or more; give more prompts, or allow a larger rate"
        )
    return float(np.sort(unwanted)[rank - 1])


def rates_of(scores: Float[np.ndarray, "n"], wanted: Bool[np.ndarray, "n"], threshold: float) -> Rates:
    """True and false positive rate of a threshold, and the AUROC of the scores."""
    opened = scores > threshold
    return Rates(share_interval(opened[wanted]), share_interval(opened[~wanted]), float(auroc(scores, wanted)))


def _scores(gate: Scored, rows: Tensor) -> Float[np.ndarray, "n"]:
    """Scores of rows, higher opens the gate, also for gates that open below their threshold (the sign is then
    reversed)."""
    scores = gate.score(rows).double().numpy()
    return -scores if gate.below else scores


def _scorer(settings: GateSettings, site: Site, rows: Tensor, wanted: np.ndarray) -> Scored:
    """A gate whose threshold is still open. Directions point from the unwanted to the wanted mean."""
    centre = rows.double().mean(0)
    gap = (rows[wanted].double().mean(0) - rows[~wanted].double().mean(0)).float()
    if settings.kind == "cosine":
        return Cosine(direction=gap, center=centre.float(), site=site, threshold=0.0, pool=settings.pool)
    if settings.kind == "cast":
        return Cast(condition=gap, site=site, threshold=0.0, pool=settings.pool)
    from sklearn.linear_model import LogisticRegression  # takes more than a second, and every run imports this file

    scale = rows.double().std(0).clamp(min=1e-6)
    x = ((rows.double() - centre) / scale).numpy()
    probe = LogisticRegression(C=settings.C, max_iter=1000).fit(x, wanted)
    weight = torch.from_numpy(probe.coef_[0]) / scale
    bias = float(probe.intercept_[0] - weight @ centre)
    return Linear(weight=weight.float(), bias=bias, site=site, threshold=0.0, pool=settings.pool)
