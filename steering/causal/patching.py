"""Patching: run questions with one unit's activation replaced, many units as rows of one forward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.question import PASS_BUDGET, Batch
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import Edit, hooked
from trimtab.steering.model.site import Site

Run = Literal["clean", "corrupted"]
Measure = Callable[[Batch, Float[Tensor, "n v"]], Float[Tensor, "rows"]]


@dataclass(frozen=True, eq=False)
class Patch:
    """Replacement activations for a patch. values: by whole site, `[b s d]`. side: the run that is patched. last_only:
    replace at the last prompt token only, instead of at every token."""

    values: Mapping[Site, Tensor]
    side: Run = "clean"
    last_only: bool = False


def metric(batch: Batch, logits: Float[Tensor, "n v"]) -> Float[Tensor, "rows"]:
    """The default measure: `Batch.metric`, nats."""
    return batch.metric(logits)


def whole_sites(units: Sequence[Site]) -> tuple[Site, ...]:
    """The sites that hold the units, heads together, each once: `z.7.3` -> `z.7`."""
    return tuple(dict.fromkeys(unit.whole for unit in units))


def activations(
    anatomy: Anatomy, batch: Batch, sites: Sequence[Site], side: Run = "clean"
) -> tuple[dict[Site, Float[Tensor, "b s d"]], Float[Tensor, "n v"]]:
    """Activations at whole sites, and the logits, of a run over the clean or the corrupted prompts."""
    values: dict[Site, Tensor] = {}
    reads = [(site, lambda h, site=site: values.__setitem__(site, h.detach())) for site in sites]
    with torch.no_grad(), hooked(anatomy, reads=reads):
        logits = batch.logits(anatomy.model, side)
    return values, logits


def patched(
    anatomy: Anatomy,
    batch: Batch,
    units: Sequence[Site],
    patch: Patch,
    measure: Measure = metric,
    budget: int = PASS_BUDGET,
) -> Float[Tensor, "units b"]:
    """The measure with each unit alone replaced by its part of the patch's values. budget: tokens of a pass."""
    fit, measured = max(1, budget // batch.clean.numel()), []
    for at in range(0, len(units), fit):
        part = units[at : at + fit]
        rows = batch.tiled(len(part))
        places = last_columns(rows) if patch.last_only else None
        with torch.no_grad(), hooked(anatomy, edits=_replacing(anatomy, part, patch, places)):
            measured.append(measure(rows, rows.logits(anatomy.model, patch.side)).reshape(len(part), -1))
    return torch.cat(measured)


def last_columns(batch: Batch) -> Tensor:
    """`[rows s 1]`, true at each row's last prompt token."""
    columns = torch.arange(batch.clean.shape[1], device=batch.last.device)
    return (columns == batch.last[:, None])[..., None]


def columns_of(anatomy: Anatomy, unit: Site) -> slice:
    """The indices of a unit's numbers in its whole site's vector."""
    if unit.head is None:
        return slice(None)
    return slice(unit.head * anatomy.d_head, (unit.head + 1) * anatomy.d_head)


def _replacing(anatomy: Anatomy, units: Sequence[Site], patch: Patch, places: Tensor | None) -> list[tuple[Site, Edit]]:
    """One edit per whole site; copy c of the rows gets unit c's values."""
    by_site: dict[Site, list[tuple[int, slice]]] = {}
    for copy, unit in enumerate(units):
        by_site.setdefault(unit.whole, []).append((copy, columns_of(anatomy, unit)))

    def edit_for(site: Site) -> Edit:
        values = patch.values[site]

        def edit(h: Tensor) -> Tensor:
            h, rows = h.clone(), len(values)
            for copy, columns in by_site[site]:
                mine = slice(copy * rows, (copy + 1) * rows)
                new, old = values[..., columns].to(h.dtype), h[mine, :, columns]
                h[mine, :, columns] = new if places is None else torch.where(places[mine], new, old)
            return h

        return edit

    return [(site, edit_for(site)) for site in by_site]
