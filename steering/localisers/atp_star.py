"""AtP*: attribution patching with dropped gradients and an exact softmax for queries and keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.gradients import products, traced
from trimtab.steering.causal.patching import Run, whole_sites
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question, per_question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.localisers._query_key import key_effects, query_effects
from trimtab.steering.localisers.base import Localiser, heads, mlps
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import Look, attending
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.hooks import Edit, hooked
from trimtab.steering.model.site import Site


@dataclass(frozen=True)
class AtPStar(Localiser):
    """`c(n) = mean over questions of 1/(L-1) sum over blocks l of |I_l(n)|`, I_l as in attribution patching but with
    the gradient through block l's attention and MLP dropped (GradDrop): where a direct and an indirect effect cancel,
    one of the dropped gradients shows them. A block's own nodes have no gradient when it is dropped, hence L - 1.

    Source: Kramar et al. 2024 (arXiv 2403.00745). Queries and keys are nodes of their own (`extra`: `query`, `key`,
    each head's sum over tokens of |effect|, same averages), with the softmax computed exactly; the key form is derived
    in `_query_key.py` (the unofficial code reads the query's cache for keys). Keys shared by several query heads
    are patched for each of these alone. `extra` holds `signed` too: the mean of I_l with its sign, to compare with
    signed effects. The slopes are those of the corrupted run (denoising).

    budget: tokens of a forward pass. Costs two forwards and one backward per block.
    """

    source: ClassVar[str] = "Kramar et al. 2024, arXiv 2403.00745 (AtP*)"
    meaning: ClassVar[str] = "size of the estimated denoising effect, whatever its sign (0: none)"
    needs: ClassVar[tuple[str, ...]] = ("corrupted",)

    budget: int = PASS_BUDGET

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        units = (*heads(anatomy), *mlps(anatomy))
        numbers = per_question(questions, anatomy.device, partial(self._of_batch, anatomy, units), self.budget)
        ends = np.cumsum([len(units), len(units), len(heads(anatomy))])
        sizes, signed, query, key = np.split(numbers, ends, axis=1)
        blank = np.full(anatomy.n_layers, np.nan)  # MLPs have no queries and keys
        extra = {"query": np.concatenate([query.mean(0), blank]), "key": np.concatenate([key.mean(0), blank])}
        return self.ranking(questions, units, sizes, {"signed": signed.mean(0), **extra})

    def _of_batch(self, anatomy: Anatomy, units: Sequence[Site], batch: Batch) -> Float[Tensor, "n b"]:
        """Sizes of the units, their signed means, and sizes of the heads' queries and keys, one after another."""
        sites = whole_sites(units)
        with torch.no_grad():
            clean = _watched(anatomy, batch, sites, "clean")
        dropped = _Dropped()
        with frozen(anatomy.model):
            here = _watched(anatomy, batch, sites, "corrupted", _switches(anatomy, dropped))
            gaps = {site: clean.values[site].detach() - here.values[site].detach() for site in sites}
            sums = [torch.zeros(1)] * 4
            for block in range(anatomy.n_layers):
                dropped.block = block
                slopes = _all_slopes(here, keep=block + 1 < anatomy.n_layers)
                linear = products(anatomy, units, gaps, {site: slopes[site] for site in sites})
                query, key = _query_key(here, clean, slopes)
                sums = [s + x for s, x in zip(sums, (linear.abs(), linear, query, key), strict=True)]
        return torch.cat(sums) / max(1, anatomy.n_layers - 1)


@dataclass(eq=False)
class _Watched:
    """One run: values at sites, every block's attention, the metric."""

    values: dict[Site, Tensor] = field(default_factory=dict)
    looks: dict[int, Look] = field(default_factory=dict)
    patterns: dict[int, Tensor] = field(default_factory=dict)
    metric: Tensor = field(default_factory=lambda: torch.zeros(1))


def _watched(
    anatomy: Anatomy, batch: Batch, sites: Sequence[Site], side: Run, switches: Sequence[tuple[Site, Edit]] = ()
) -> _Watched:
    """One run of a batch with its activations, attention patterns and metric recorded. switches: edits registered after
    the recording ones, so that the activations of a dropped block get no gradient."""
    run = _Watched()

    def look_at(look: Look) -> Tensor:
        run.looks[look.block] = look
        pattern = look.pattern
        run.patterns[look.block] = pattern.view_as(pattern) if pattern.requires_grad else pattern.detach().clone()
        if torch.is_grad_enabled():
            run.patterns[look.block].requires_grad_()
        return run.patterns[look.block]

    with attending(anatomy, look_at), traced(anatomy, sites) as activations, hooked(anatomy, edits=switches):
        run.metric = batch.metric(batch.logits(anatomy.model, side))
    run.values = activations
    return run


def _all_slopes(run: _Watched, keep: bool) -> dict[Site | int, Tensor]:
    """Derivatives of the metric by site and by block's pattern; zero where dropping a block removed every path to the
    metric."""
    names: list[Site | int] = [*run.values, *run.patterns]
    places = [*run.values.values(), *run.patterns.values()]
    gradients = torch.autograd.grad(run.metric.sum(), places, retain_graph=keep, allow_unused=True)
    return {name: torch.zeros_like(x) if g is None else g for name, x, g in zip(names, places, gradients, strict=True)}


def _query_key(
    here: _Watched, clean: _Watched, slopes: Mapping[Site | int, Tensor]
) -> tuple[Float[Tensor, "heads b"], Float[Tensor, "heads b"]]:
    queries, keys = [], []
    with torch.no_grad():
        for block, look in here.looks.items():
            other, slope = clean.looks[block], slopes[block].float()
            scores = look.scores(look.query, look.key)
            after = look.scores(other.query, look.key).softmax(-1, dtype=torch.float32)
            shift = (look.scores(look.query, other.key) - scores).masked_fill(look.mask < 0, 0.0).float()
            pattern = look.pattern.float()
            queries.append(query_effects(pattern, after, slope).abs().sum(-1))
            keys.append(key_effects(pattern, shift, slope).abs().sum(-1))
    return torch.cat(queries, 1).T, torch.cat(keys, 1).T


class _Dropped:
    """Which block's contribution to the residual stream passes no gradient."""

    block: int | None = None


class _Switch(torch.autograd.Function):
    """The identity, whose gradient is zero while its block is dropped."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, dropped: _Dropped, block: int) -> Tensor:
        ctx.dropped, ctx.block = dropped, block
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = slopes
        return (torch.zeros_like(slope) if ctx.dropped.block == ctx.block else slope), None, None


def _switches(anatomy: Anatomy, dropped: _Dropped) -> list[tuple[Site, Edit]]:
    def switch(block: int) -> Edit:
        return lambda h: _Switch.apply(h, dropped, block)

    return [(site, switch(site.block or 0)) for site in anatomy.sites(["attn_out", "mlp_out"])]
