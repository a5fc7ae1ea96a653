"""Gradients of the metric at sites, and the first-order estimate of patching that they give."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.patching import Run, activations, columns_of, whole_sites
from trimtab.steering.causal.question import Batch
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.hooks import Edit, hooked
from trimtab.steering.model.site import Site


@dataclass(frozen=True, eq=False)
class Slopes:
    """Activations and gradients at whole sites. values: by site, `[b s d]` activations of the run. slopes: by site, `[b
    s d]` derivatives of each row's metric with respect to them. metric: `[b]`, of each row."""

    values: Mapping[Site, Tensor]
    slopes: Mapping[Site, Tensor]
    metric: Tensor


@contextmanager
def traced(anatomy: Anatomy, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """While the block runs, every forward pass writes the activations of these sites into the yielded dict, as nodes of
    the autograd graph, so that gradients with respect to them can be computed. The activations themselves are
    bit-identical."""
    tensors: dict[Site, Tensor] = {}

    def keep(site: Site) -> Edit:
        def edit(h: Tensor) -> Tensor:
            tensors[site] = h.view_as(h) if h.requires_grad else h.detach().clone().requires_grad_()
            return tensors[site]

        return edit

    with hooked(anatomy, edits=[(site, keep(site)) for site in sites]):
        yield tensors


def slopes(
    anatomy: Anatomy,
    batch: Batch,
    sites: Sequence[Site],
    side: Run = "clean",
    surgery: AbstractContextManager[None] | None = None,
) -> Slopes:
    """Values and gradients of a batch's metric, from one forward and one backward pass. surgery: a context that changes
    the backward pass while this one runs (used by RelP)."""
    with frozen(anatomy.model), surgery or nullcontext(), traced(anatomy, sites) as tensors:
        metric = batch.metric(batch.logits(anatomy.model, side))
        gradients = torch.autograd.grad(metric.sum(), [tensors[site] for site in sites])
    values = {site: tensors[site].detach() for site in sites}
    return Slopes(values, dict(zip(sites, gradients, strict=True)), metric.detach())


def estimates(
    anatomy: Anatomy,
    batch: Batch,
    units: Sequence[Site],
    side: Run = "corrupted",
    surgery: AbstractContextManager[None] | None = None,
) -> Float[Tensor, "units b"]:
    """`sum over tokens of (clean - corrupted) . slope on one side`, per unit: the first-order estimate of denoising
    (slopes of the corrupted run) or noising (of the clean run)."""
    sites = whole_sites(units)
    here = slopes(anatomy, batch, sites, side, surgery)
    there, _ = activations(anatomy, batch, sites, "clean" if side == "corrupted" else "corrupted")
    sign = 1 if side == "corrupted" else -1
    gaps = {site: sign * (there[site] - here.values[site]) for site in sites}
    return products(anatomy, units, gaps, here.slopes)


def products(
    anatomy: Anatomy, units: Sequence[Site], gaps: Mapping[Site, Tensor], slopes: Mapping[Site, Tensor]
) -> Float[Tensor, "units b"]:
    """`sum over tokens and the unit's width of gap x slope`, float32 per unit, from gaps and slopes `[b s d]` of whole
    sites."""
    whole = {site: gaps[site].float() * slopes[site].float() for site in gaps}
    return torch.stack([whole[unit.whole][..., columns_of(anatomy, unit)].sum((1, 2)) for unit in units])
