"""The directions that benchmarks/snmf.py compares, all at one site."""

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.features.detection import sentence_scores
from trimtab.steering.features.snmf import SNMF, fit_snmf
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.statistics import auroc


def candidates(rows: Tensor, settings: SNMF) -> dict[str, Tensor]:
    """Sets of directions `[d k]` to choose from: SNMF features, both signs of the principal components (centred) and
    of single neurons, and random sparse features with as many entries as the SNMF features have."""
    features = fit_snmf(rows, settings).features
    axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][: settings.rank // 2].T
    neurons, draw = torch.eye(rows.shape[1]), torch.Generator().manual_seed(0)
    return {
        f"SNMF ({settings.rank})": features,
        f"PCA (both signs of {settings.rank // 2})": torch.cat([axes, -axes], 1),
        f"single neuron (both signs of {rows.shape[1]})": torch.cat([neurons, -neurons], 1),
        f"random sparse ({settings.rank})": random_sparse(features, draw),
    }


def random_sparse(like: Tensor, draw: torch.Generator) -> Tensor:
    """Normal entries at random places, as many per column as `like` has."""
    found = torch.zeros_like(like)
    for k in range(like.shape[1]):
        count = int((like[:, k] != 0).sum())
        found[torch.randperm(len(like), generator=draw)[:count], k] = torch.randn(count, generator=draw)
    return found


def chosen(sets: dict[str, Tensor], bench, concept: str) -> dict[str, Tensor]:
    """One vector per set: the best detector of the concept on the sentences to choose on; the first random one as it
    is, so that chance is not selected for; and the mean difference, which is supervised."""
    inside = np.array([s.split != "report" for s in bench.sentences])
    positive = np.array([s.concept == concept for s in bench.sentences])[inside]
    found = {}
    for name, features in sets.items():
        scores = sentence_scores(bench.rows, bench.offsets, features)[inside]
        best = 0 if name.startswith("random") else int(auroc(scores, positive).argmax())
        label = f"{name.partition(' (')[0]} #{best}"
        found[label] = features[:, best]
    high, low = bench.of(concept)
    return {**found, "mean difference": high.mean(0) - low.mean(0)}


def plan(site: Site, vector: Tensor) -> SteeringPlan:
    """The vector at norm 1, on every token."""
    return SteeringPlan((Intervention(site, Add((vector / vector.norm()).float().clone())),))
