"""The proof of a layout: checks on the loaded model that the modules named in its family's row are what the row claims.

On a few random tokens, in every block: resid_mid = resid_pre + attn_out, resid_post = resid_pre + attn_out + mlp_out,
attn_out = z W_O (+ bias), mlp_out = mlp_post W_down (+ bias), each through the norm between them where the row says so,
and resid_post.b = resid_pre.(b+1). Vectors must have the widths that sites declare, `embed` must turn tokens into
vectors, and editing a writable site must change the logits. Training flags, random state and gradients of the model are
unchanged afterwards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.layout import Layout
from trimtab.steering.model.projection import is_plain, out_weight
from trimtab.steering.model.site import POINTS, Site

# Largest difference allowed, relative to the largest value of the sum: rounding of the forward's own dtype.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float64: 1e-10}
SUMS, WRITES = (2, 7), 3  # rows and tokens of the pass that proves sums; tokens of the passes that prove writing


def prove(layout: Layout) -> None:
    """Raises UnsupportedModel naming the equation or site that fails. Costs three forward passes of a few tokens; in
    mixtures of experts, two and one for each kind of site. Compiled models run uncompiled meanwhile."""
    _check_in_memory(layout.model)
    if layout.place(Site("embed")).module is not layout.model.get_input_embeddings():
        raise _refuted(layout, f"'{layout.family.embed}' is not the module that turns tokens into vectors")
    # no_grad, not inference_mode: what a forward pass caches (rotary tables) must still be good for training
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), _evaluating(layout.model):
        values = _read_everything(layout)
        _prove_widths(layout, values)
        for block in range(layout.n_layers):
            _prove_sums(layout, block, values)
        _prove_writable(layout)


def readable_points(layout: Layout) -> tuple[str, ...]:
    """The points this model has."""
    missing = {"resid_mid": layout.family.mid_input is None, "mlp_post": layout.family.down_proj is None}
    return tuple(point for point in POINTS if not missing.get(point, False))


def _check_in_memory(model: nn.Module) -> None:
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise UnsupportedModel(
            f"{len(away)} weights are not in memory ({away[0]} is on the meta device: offloaded, or never loaded), so "
            f"neither places nor weights can be checked; load the whole model onto real devices"
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; each module's own flag comes back, whichever of them were training."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _inputs(layout: Layout, rows: int, tokens: int) -> dict[str, Tensor | bool]:
    """Random tokens; always the same."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, layout.d_vocab, (rows, tokens), generator=generator).to(layout.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


def _read_everything(layout: Layout) -> dict[Site, Tensor]:
    points = [p for p in readable_points(layout) if p != "embed"]
    sites = layout.sites(points)
    values: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        return lambda h: values.__setitem__(site, h)

    with hooked(layout, reads=[(site, keep(site)) for site in sites]):
        layout.base(**_inputs(layout, *SUMS))
    missing = [str(site) for site in sites if site not in values]
    if missing:
        raise _refuted(layout, f"{', '.join(missing[:4])} never ran")
    return values


def _prove_sums(layout: Layout, block: int, values: dict[Site, Tensor]) -> None:
    def at(point: str, b: int = block) -> Tensor:
        return values[Site(point, b)]  # type: ignore[arg-type]

    total = at("resid_pre") + at("attn_out") + at("mlp_out")
    _same(layout, at("resid_post"), total, f"resid_post.{block} = resid_pre + attn_out + mlp_out")
    if layout.family.mid_input is not None:
        _same(layout, at("resid_mid"), at("resid_pre") + at("attn_out"), f"resid_mid.{block} = resid_pre + attn_out")
    if block + 1 < layout.n_layers:
        _same(layout, at("resid_pre", block + 1), at("resid_post"), f"resid_pre.{block + 1} = resid_post.{block}")
    _prove_projection(layout, values, Site("z", block), Site("attn_out", block))
    if layout.family.down_proj is not None:
        _prove_projection(layout, values, Site("mlp_post", block), Site("mlp_out", block))


def _prove_widths(layout: Layout, values: dict[Site, Tensor]) -> None:
    """Heads and neurons are slices of these vectors: as many numbers must pass as the site claims."""
    for site, h in values.items():
        if h.shape[-1] != layout.width(site):
            raise _refuted(layout, f"{site} is {h.shape[-1]} wide where {layout.width(site)} are claimed")


def _prove_projection(layout: Layout, values: dict[Site, Tensor], source: Site, added: Site) -> None:
    """What is added is what the projection makes of its input, through the norm behind it in post-norm families."""
    want = layout.place(added).factor * _projected(layout.place(source).module, values[source])
    if layout.family.post_norm and want.shape == values[added].shape:
        want = layout.place(added).module(want.to(values[added].dtype))
    _same(layout, values[added], want, f"{added} = {source} W + b")


def _projected(projection: nn.Module, x: Tensor) -> Tensor:
    """A layer that is not plain (packed, with an adapter) is asked itself: its matrix would be read off the same way,
    one unit vector at a time."""
    if not is_plain(projection):
        return projection.forward(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide) @ out_weight(projection).to(wide)
    return y if projection.bias is None else y + projection.bias.to(wide)  # type: ignore[operator]


def _prove_writable(layout: Layout) -> None:
    """One row of a pass for each point, and the same pass untouched. A router groups the tokens of all rows, so in
    mixtures of experts a row may change with its neighbours: there each point has a pass of its own."""
    points = readable_points(layout)
    for group in [[point] for point in points] if layout.family.down_proj is None else [points]:
        sites = [Site(p, None if p == "embed" else layout.n_layers // 2) for p in group]  # type: ignore[arg-type]
        inputs = _inputs(layout, len(sites), WRITES)
        base = layout.model(**inputs).logits
        with hooked(layout, edits=[(site, _on_row(row)) for row, site in enumerate(sites)]):
            changed = layout.model(**inputs).logits
        for row, site in enumerate(sites):
            if torch.equal(base[row], changed[row]):
                raise _refuted(layout, f"writing at {site} does not change the logits")


def _on_row(row: int) -> Callable[[Tensor], Tensor]:
    def edit(h: Tensor) -> Tensor:
        mine = torch.arange(h.shape[0], device=h.device)[:, None, None] == row
        return torch.where(mine, h + (1 + h[row].float().abs().mean()).to(h.dtype) * _pattern(h), h)

    return edit


def _pattern(h: Tensor) -> Tensor:
    """Not constant over the width: layer norms forget a constant."""
    return torch.linspace(-1, 1, h.shape[-1], device=h.device).to(h.dtype)


def _same(layout: Layout, actual: Tensor, want: Tensor, equation: str) -> None:
    if actual.shape != want.shape:
        raise _refuted(layout, f"{equation} compares {list(actual.shape)} with {list(want.shape)}")
    scale = want.abs().max().item()
    off = (actual.float() - want.float()).abs().max().item()
    if not off <= TOLERANCE[actual.dtype] * max(scale, 1e-6):
        raise _refuted(layout, f"{equation} is off by {off:.3g} where values reach {scale:.3g}")


def _refuted(layout: Layout, what: str) -> UnsupportedModel:
    name = layout.text_config.model_type
    return UnsupportedModel(
        f"the row of family '{name}' in steering/model/families.py is wrong for this model: {what}. Steering it would "
        f"act somewhere else than it says; correct the row"
    )
