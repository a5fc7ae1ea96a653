"""The proof on load: a family's row is a claim, and a wrong one cannot pass.

On a few random tokens, in every block: resid_mid = resid_pre + attn_out, resid_post = resid_pre + attn_out + mlp_out,
attn_out = z W_O (+ bias), mlp_out = mlp_post W_down (+ bias), each through the norm that stands between where the row
says so, resid_post.b = resid_pre.(b+1); `embed` turns tokens into vectors; and a site that claims to be writable must
change the logits.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy, out_weight
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import POINTS, Site

# Largest difference allowed, relative to the largest value of the sum: rounding of the forward's own dtype.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float64: 1e-10}


def prove(anatomy: Anatomy) -> None:
    """Raises UnsupportedModel naming the equation or site that fails. Costs one forward of 2 x 7 tokens, and one more
    for each kind of site."""
    ids = _random_tokens(anatomy)
    if anatomy.place(Site("embed")).module is not anatomy.model.get_input_embeddings():
        raise _refuted(anatomy, f"'{anatomy.family.embed}' is not the module that turns tokens into vectors")
    with torch.inference_mode():
        seen = _read_everything(anatomy, ids)
        for block in range(anatomy.n_layers):
            _prove_sums(anatomy, block, seen)
        _prove_writable(anatomy, ids)


def readable_points(anatomy: Anatomy) -> tuple[str, ...]:
    """The points this model has."""
    missing = {"resid_mid": anatomy.family.mid_input is None, "mlp_post": anatomy.family.down_proj is None}
    return tuple(point for point in POINTS if not missing.get(point, False))


def _random_tokens(anatomy: Anatomy) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, anatomy.d_vocab, (2, 7), generator=generator)
    return ids.to(next(anatomy.model.parameters()).device)


def _read_everything(anatomy: Anatomy, ids: Tensor) -> dict[Site, Tensor]:
    points = [p for p in readable_points(anatomy) if p != "embed"]
    sites = anatomy.sites(points)  # type: ignore[arg-type]
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        return lambda h: seen.__setitem__(site, h)

    with hooked(anatomy, reads=[(site, keep(site)) for site in sites]):
        anatomy.base(input_ids=ids, use_cache=False)
    missing = [str(site) for site in sites if site not in seen]
    if missing:
        raise _refuted(anatomy, f"{', '.join(missing[:4])} never ran")
    return seen


def _prove_sums(anatomy: Anatomy, block: int, seen: dict[Site, Tensor]) -> None:
    def at(point: str, b: int = block) -> Tensor:
        return seen[Site(point, b)]  # type: ignore[arg-type]

    total = at("resid_pre") + at("attn_out") + at("mlp_out")
    _same(anatomy, at("resid_post"), total, f"resid_post.{block} = resid_pre + attn_out + mlp_out")
    if anatomy.family.mid_input is not None:
        _same(anatomy, at("resid_mid"), at("resid_pre") + at("attn_out"), f"resid_mid.{block} = resid_pre + attn_out")
    if block + 1 < anatomy.n_layers:
        _same(anatomy, at("resid_pre", block + 1), at("resid_post"), f"resid_pre.{block + 1} = resid_post.{block}")
    _prove_projection(anatomy, seen, Site("z", block), Site("attn_out", block))
    if anatomy.family.down_proj is not None:
        _prove_projection(anatomy, seen, Site("mlp_post", block), Site("mlp_out", block))


def _prove_projection(anatomy: Anatomy, seen: dict[Site, Tensor], given: Site, added: Site) -> None:
    """What is added is what the projection makes of its input, through the norm behind it in post-norm families."""
    projection = anatomy.place(given).module
    bias = getattr(projection, "bias", None)
    want = seen[given].float() @ out_weight(projection).float()
    want = want if bias is None else want + bias.float()
    if anatomy.family.post_norm and want.shape == seen[added].shape:
        want = anatomy.place(added).module(want.to(seen[added].dtype))
    _same(anatomy, seen[added], want, f"{added} = {given} W + b")


def _prove_writable(anatomy: Anatomy, ids: Tensor) -> None:
    base = anatomy.model(input_ids=ids, use_cache=False).logits
    block = anatomy.n_layers // 2
    for point in readable_points(anatomy):
        site = Site(point, None if point == "embed" else block)  # type: ignore[arg-type]
        with hooked(anatomy, edits=[(site, lambda h: h + (1 + h.float().abs().mean()).to(h.dtype) * _pattern(h))]):
            changed = anatomy.model(input_ids=ids, use_cache=False).logits
        if torch.equal(base, changed):
            raise _refuted(anatomy, f"writing at {site} does not change the logits")


def _pattern(h: Tensor) -> Tensor:
    """Not constant over the width: layer norms forget a constant."""
    return torch.linspace(-1, 1, h.shape[-1], device=h.device).to(h.dtype)


def _same(anatomy: Anatomy, got: Tensor, want: Tensor, equation: str) -> None:
    if got.shape != want.shape:
        raise _refuted(anatomy, f"{equation} compares {list(got.shape)} with {list(want.shape)}")
    scale = want.abs().max().item()
    off = (got.float() - want.float()).abs().max().item()
    if not off <= TOLERANCE[got.dtype] * max(scale, 1e-6):
        raise _refuted(anatomy, f"{equation} is off by {off:.3g} where values reach {scale:.3g}")


def _refuted(anatomy: Anatomy, what: str) -> UnsupportedModel:
    name = anatomy.text_config.model_type
    return UnsupportedModel(
        f"the row of family '{name}' in steering/model/families.py is wrong for this model: {what}. Steering it would "
        f"act somewhere else than it says; correct the row"
    )
