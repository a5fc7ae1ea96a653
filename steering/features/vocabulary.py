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
    """What adding each direction at the site adds to the residual: `W_out^T f` at mlp_post. In families with a norm
    behind the MLP (gemma2, olmo2) it is what that norm makes of it alone: the direction without its scale.

    Raises BadSite for points whose directions have no fixed image there (z of all heads is one for another day).
    """
    rows = directions.T.float()
    if site.point in STREAM:
        return rows
    if site.point != "mlp_post":
        raise BadSite(f"{site}: features are read at mlp_post or in the residual stream ({', '.join(STREAM)})")
    through = rows @ out_weight(anatomy.place(site).module).detach().float().cpu()
    if not anatomy.family.post_norm:
        return through
    return _through(anatomy, anatomy.place(Site("mlp_out", site.block)).module, through)


def vocabulary_effects(anatomy: Anatomy, residual: Float[Tensor, "k d_model"]) -> Float[Tensor, "k v"]:
    """Logits that each direction adds, up to one positive factor per direction (the norm's scale depends on what else
    is in the residual), each about its mean over the vocabulary."""
    seen = _through(anatomy, anatomy.final_norm, residual / residual.norm(dim=1, keepdim=True).clamp_min(1e-30))
    logits = seen @ anatomy.unembedding.detach().float().cpu().T
    return logits - logits.mean(1, keepdim=True)


def _through(anatomy: Anatomy, norm: nn.Module, rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """A norm's linear part at unit scale: its bias, if any, says nothing about a direction."""
    there = rows.to(anatomy.device)
    with torch.inference_mode():
        image = norm(there) - norm(torch.zeros_like(there[:1]))
    return image.float().cpu().clone()
