"""Gates: every head's z times a number, all heads of all blocks at once, a different set of numbers for every row.

A gate of one is the identity to the bit, a gate of zero is zero ablation, and gradients flow to the gates.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site


@contextmanager
def gated(anatomy: Anatomy, gates: Float[Tensor, "rows layers heads"]) -> Iterator[None]:
    """While the block runs, z of head h in block l is multiplied by `gates[row, l, h]` at every token.

    rows: those of the batch, or 1 for all rows alike. Raises SteeringError when the shape is not the model's.
    """
    want = (anatomy.n_layers, anatomy.n_heads)
    if gates.ndim != 3 or tuple(gates.shape[1:]) != want:
        raise SteeringError(
            f"gates of shape {list(gates.shape)} do not fit a model of {want[0]} blocks and {want[1]} heads: give "
            f"[rows, {want[0]}, {want[1]}]"
        )
    edits = [(Site("z", block), _times(gates[:, block], anatomy.d_head)) for block in range(anatomy.n_layers)]
    with hooked(anatomy, edits=edits):
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient while the block runs: a backward pass then costs half, and leaves nothing."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def ones(anatomy: Anatomy, rows: int = 1) -> Float[Tensor, "rows layers heads"]:
    """Gates that change nothing, float32, on the model's device."""
    device = anatomy.device
    return torch.ones(rows, anatomy.n_layers, anatomy.n_heads, device=device)


def _times(gates: Float[Tensor, "rows heads"], d_head: int) -> Callable[[Tensor], Tensor]:
    def edit(z: Tensor) -> Tensor:
        rows, tokens = z.shape[:2]
        per_head = z.reshape(rows, tokens, -1, d_head)
        return (per_head * gates[:, None, :, None].to(z.dtype)).reshape(z.shape)

    return edit
