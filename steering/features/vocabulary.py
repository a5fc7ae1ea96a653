"""What a direction at a site does to the vocabulary: through W_out, the final norm and W_U."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.steering.errors import BadSite, UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.site import Site

STREAM = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")  # already in the residual's basis


def residual_directions(anatomy: Anatomy, site: Site, directions: Float[Tensor, "d k"]) -> Float[Tensor, "k d_model"]:
    """What adding each direction at the site adds to the residual: `W_out^T f` at mlp_post. In families with a norm
    behind the MLP (gemma2, olmo2) it is what that norm makes of it alone: the direction without its scale.

    Raises BadSite for points whose directions have no fixed image there (z of all heads is one for another day).
    """
    rows = directions.T.float()
    if site.point in STREAM:
        return rows
    if site.point != "mlp_post" or site.block is None or anatomy.family.down_proj is None:
        raise BadSite(f"{site}: features are read at mlp_post or in the residual stream ({', '.join(STREAM)})")
    block = anatomy.blocks[site.block]
    through = rows @ out_weight(block.get_submodule(anatomy.family.down_proj)).detach().float().cpu()
    if not anatomy.family.post_norm:
        return through
    return _through(block.get_submodule(anatomy.family.mlp_added), through)


def vocabulary_effects(anatomy: Anatomy, residual: Float[Tensor, "k d_model"]) -> Float[Tensor, "k v"]:
    """Logits that each direction adds, up to one positive factor per direction (the norm's scale depends on what else
    is in the residual), each about its mean over the vocabulary."""
    unembed = anatomy.model.get_output_embeddings()
    if unembed is None:
        raise UnsupportedModel("the model has no output embeddings, so directions have no effect on a vocabulary")
    seen = _through(final_norm(anatomy), residual / residual.norm(dim=1, keepdim=True).clamp_min(1e-30))
    logits = seen @ unembed.weight.detach().float().cpu().T
    return logits - logits.mean(1, keepdim=True)


def final_norm(anatomy: Anatomy) -> nn.Module:
    """The norm between the last block and W_U: the last module beside the blocks with one weight of width d_model, or a
    norm without weights. Raises UnsupportedModel when it has none."""
    holder = anatomy.model.get_submodule(anatomy.family.blocks.rpartition(".")[0])
    for name, child in reversed(list(holder.named_children())):
        weight = getattr(child, "weight", None)
        weighted = isinstance(weight, Tensor) and weight.shape == (anatomy.d_model,)
        if weighted or (weight is None and "norm" in name):  # olmo normalises without a weight
            return child
    raise UnsupportedModel(f"{anatomy.text_config.model_type}: no final norm was found; vocabulary effects need it")


def _through(norm: nn.Module, rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """A norm's linear part at unit scale: its bias, if any, says nothing about a direction."""
    device = next(iter(norm.parameters()), torch.empty(0)).device
    with torch.inference_mode():
        image = norm(rows.to(device)) - norm(torch.zeros_like(rows[:1]).to(device))
    return image.float().cpu().clone()
