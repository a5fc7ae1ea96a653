"""What a direction at a site does to the vocabulary: through W_out, the final norm and W_U."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.steering.errors import BadSite
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.site import Site

STREAM = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")  # already in the residual's basis


def residual_directions(anatomy: Anatomy, site: Site, directions: Float[Tensor, "d k"]) -> Float[Tensor, "k d_model"]:
    """`[n d_model]`, what adding each direction at the site adds to the residual: `W_out^T f` at mlp_post. In families
    with a norm behind the MLP (gemma2, olmo2) it is that norm's output for the direction alone, so its scale is
    unknown.

    Raises BadSite for points whose directions have no fixed image in the residual, such as z of all heads.
    """
    rows = directions.T.float()
    if site.point in STREAM:
        return rows
    if site.point != "mlp_post":
        raise BadSite(f"{site}: features are read at mlp_post or in the residual stream ({', '.join(STREAM)})")
    through = anatomy.multiplier * rows @ out_weight(anatomy.place(site).module).detach().float().cpu()
    if not anatomy.family.post_norm:
        return through
    return _through(anatomy, anatomy.place(Site("mlp_out", site.block)).module, through)


def vocabulary_effects(anatomy: Anatomy, residual: Float[Tensor, "k d_model"]) -> Float[Tensor, "k v"]:
    """`[n v]` logits that each direction adds, minus their mean over the vocabulary. They are known up to one positive
    factor per direction, because the final norm's scale depends on the rest of the residual."""
    images = _through(anatomy, anatomy.final_norm, residual / residual.norm(dim=1, keepdim=True).clamp_min(1e-30))
    logits = images @ anatomy.unembedding.detach().float().cpu().T
    return logits - logits.mean(1, keepdim=True)


def _through(anatomy: Anatomy, norm: nn.Module, rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """The norm's output for each direction alone, without its bias, which is the same for every direction."""
    there = rows.to(anatomy.device)
    with torch.inference_mode():
        image = norm(there) - norm(torch.zeros_like(there[:1]))
    return image.float().cpu().clone()
