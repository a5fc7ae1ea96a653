"""Projections: how wide their input is, and which matrix they are, whatever layout holds their weights.

A Linear keeps `[d_out d_in]`, GPT-2's Conv1D `[d_in d_out]`, a 4-bit layer a packed column, and an adapter (PEFT) its
own small matrices around a `base_layer`: only the first two may be read off `weight`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.steering.errors import UnsupportedModel

FALCON_LINEAR = "transformers.models.falcon.modeling_falcon.FalconLinear"
ROWS = 1024  # unit vectors at once, where a matrix is read by what it does


def is_plain(projection: nn.Module) -> bool:
    """Whether `weight` and `bias` are all there is to it. Subclasses of Linear pack their weights or add to them; only
    falcon's does neither."""
    kind = type(projection)
    return kind in (nn.Linear, Conv1D) or f"{kind.__module__}.{kind.__name__}" == FALCON_LINEAR


def in_features(projection: nn.Module) -> int:
    """Width of the input, by the layer's own word (`nx` in Conv1D); the shape of packed weights says nothing.

    Raises UnsupportedModel when the layer does not say.
    """
    inner = projection
    while isinstance(getattr(inner, "base_layer", None), nn.Module):
        inner = inner.base_layer  # type: ignore[assignment]
    width = getattr(inner, "nx" if isinstance(inner, Conv1D) else "in_features", None)
    if not isinstance(width, int):
        raise UnsupportedModel(
            f"a projection is a {type(inner).__name__}, which does not say how wide its input is (no `in_features`), "
            f"so the columns of its heads or neurons are unknown; load the model with plain weights"
        )
    return width


def out_weight(projection: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """The matrix W of `y = x W + b`. Of a layer that is not plain, what it makes of each unit vector, adapters included
    (no gradient, and for quantised layers within the rounding of their activations)."""
    if is_plain(projection):
        weight: Tensor = projection.weight  # type: ignore[assignment]
        return weight.T if isinstance(projection, nn.Linear) else weight
    width, like = in_features(projection), _like(projection)
    with torch.no_grad():
        bias = projection.forward(like.new_zeros(1, width))
        rows = torch.arange(width, device=like.device).split(ROWS)
        units = (nn.functional.one_hot(chunk, width).to(like.dtype) for chunk in rows)
        return torch.cat([projection.forward(unit) - bias for unit in units])


def _like(projection: nn.Module) -> Tensor:
    """A tensor of the dtype and on the device in which the layer takes its input."""
    tensors = [*projection.parameters(), *projection.buffers()]
    floating = [t for t in tensors if t.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)]
    return floating[0] if floating else torch.zeros((), device=tensors[0].device)
