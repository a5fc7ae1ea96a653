"""Attention patterns, the output of each head, and router logits, computed only on request.

None of these is a Site: a pattern's width depends on the text, a head's output is z times a matrix (d_model for every
head, much larger than z), and router logits are not part of the residual stream. Each is checked when it is computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from trimtab.steering.errors import BadSite, UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.proof import TOLERANCE
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens


def pattern(anatomy: Anatomy, text: Tokens, blocks: Sequence[int] | None = None) -> dict[int, Tensor]:
    """Per block, attention `[h s s]` (from row to column) of one text, on the CPU. Runs with eager attention.

    Raises BadSite for a block that the model lacks, UnsupportedModel when rows do not sum to 1, look ahead, or the
    residual stream is not what it is without reading.
    """
    numbers = _blocks(anatomy, blocks)
    site = Site("resid_post", anatomy.n_layers - 1)
    ids = _ids(anatomy, text)
    with torch.inference_mode():
        before = _rows(anatomy, ids, [site])[site]
        with _eager(anatomy):
            attentions = anatomy.model(input_ids=ids, output_attentions=True, use_cache=False).attentions
            after = _rows(anatomy, ids, [site])[site]
    _same(anatomy, after, before, f"{site} with eager attention = {site}")
    patterns = {block: attentions[block][0].float().cpu() for block in numbers}
    for block, weights in patterns.items():
        _same(
            anatomy, weights.sum(-1), torch.ones(weights.shape[:-1]), f"rows of pattern.{block} sum to 1", attentions[0]
        )
        _same(
            anatomy,
            weights.triu(1),
            torch.zeros_like(weights),
            f"pattern.{block} looks at nothing ahead",
            attentions[0],
        )
    return patterns


def result(anatomy: Anatomy, text: Tokens, block: int) -> Tensor:
    """`[s h d_model]`, what each head of a block writes: z_h W_O[h], on the CPU, in granite times its multiplier. Their
    sum (and the bias) is attn_out.

    Raises BadSite for a block that the model lacks, and in families with a norm behind the attention, where heads do
    not add up; UnsupportedModel when they do not although they should.
    """
    _blocks(anatomy, [block])
    if anatomy.family.post_norm:
        raise BadSite(f"result.{block} does not exist: a norm stands behind attention, so heads do not add up; use z")
    sites = [Site("z", block), Site("attn_out", block)]
    with torch.inference_mode():
        rows = _rows(anatomy, _ids(anatomy, text), sites)
        projection, factor = anatomy.place(sites[0]).module, anatomy.multiplier
        weight = factor * out_weight(projection).float().reshape(anatomy.n_heads, anatomy.d_head, -1)
        z = rows[sites[0]].float().reshape(-1, anatomy.n_heads, anatomy.d_head)
        written = torch.einsum("shk,hkd->shd", z, weight)
        bias = getattr(projection, "bias", None)
        total = written.sum(1) if bias is None else written.sum(1) + factor * bias.float()
        _same(anatomy, rows[sites[1]], total, f"attn_out.{block} = sum of result.{block}")
    return written.cpu()


def router(anatomy: Anatomy, text: Tokens) -> dict[int, Tensor]:
    """Per block that has a router, its logits `[s experts]` for one text, on the CPU.

    Raises BadSite for a model without experts, UnsupportedModel when the shape is not tokens x experts.
    """
    config = anatomy.text_config
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if not experts:
        raise BadSite(f"router does not exist: {config.model_type} has no experts")
    ids = _ids(anatomy, text)
    with torch.inference_mode():
        router_logits = anatomy.model(input_ids=ids, output_router_logits=True, use_cache=False).router_logits
    blocks = _routed(anatomy, len(router_logits))
    for block, logits in zip(blocks, router_logits, strict=True):
        if tuple(logits.shape) != (ids.shape[1], experts):
            raise UnsupportedModel(f"router.{block} has shape {list(logits.shape)}, not {ids.shape[1]} x {experts}")
    return {block: logits.float().cpu() for block, logits in zip(blocks, router_logits, strict=True)}


def _routed(anatomy: Anatomy, many: int) -> list[int]:
    """The blocks whose MLP routes: those that have a module called gate or router."""
    blocks = [
        number
        for number, block in enumerate(anatomy.blocks)
        if any(name.rpartition(".")[2] in ("gate", "router") for name, _ in block.named_modules())
    ]
    if len(blocks) != many:
        raise UnsupportedModel(f"the model gave {many} routers' logits, but {len(blocks)} of its blocks have a router")
    return blocks


def _rows(anatomy: Anatomy, ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """`[s d]` per site."""
    rows: dict[Site, Tensor] = {}
    reads = [(site, lambda h, site=site: rows.__setitem__(site, h[0])) for site in sites]
    with hooked(anatomy, reads=reads):
        anatomy.base(input_ids=ids, use_cache=False)
    return rows


@contextmanager
def _eager(anatomy: Anatomy) -> Iterator[None]:
    """Fused kernels give no pattern."""
    before = anatomy.text_config._attn_implementation
    anatomy.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        anatomy.model.set_attn_implementation(before)


def _ids(anatomy: Anatomy, text: Tokens) -> Tensor:
    return torch.from_numpy(text.ids)[None].to(anatomy.device)


def _blocks(anatomy: Anatomy, blocks: Sequence[int] | None) -> list[int]:
    numbers = list(range(anatomy.n_layers) if blocks is None else blocks)
    for block in numbers:
        anatomy.check(Site("resid_post", block))
    return numbers


def _same(anatomy: Anatomy, actual: Tensor, want: Tensor, equation: str, of: Sequence[Tensor] | None = None) -> None:
    """Raises UnsupportedModel when `actual` and `want` differ by more than rounding. of: the tensors that `actual` was
    computed from, when it has another dtype than they have: their dtype sets the tolerance."""
    dtype = actual.dtype if of is None else of[0].dtype
    scale = max(want.abs().max().item(), 1.0)
    off = (actual.float() - want.float()).abs().max().item()
    if not off <= 10 * TOLERANCE[dtype] * scale:
        raise UnsupportedModel(f"{anatomy.text_config.model_type}: {equation} is off by {off:.3g} of {scale:.3g}")
