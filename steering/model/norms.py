"""What a norm computes, as a product: `y = w (x - mean) scale(x) + bias`, with the scale read as a constant."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from trimtab.steering.errors import UnsupportedModel

NormForm = Callable[[Tensor, Tensor], Tensor]  # input and output of the norm, to `w (x - mean) scale`
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3}  # of the largest value; 1e-4 in other dtypes
EPS = 1e-5  # of a norm that does not say its own


def scaled_form(norm: nn.Module, x: Tensor, y: Tensor) -> NormForm:
    """The norm as a function that is linear in x, whose scale has no gradient; its value is that of the norm without
    its bias.

    x, y: an input and the output it gave, `[... d]`: the forms that exist (root mean square or layer norm; weight w,
    1 + w or none) are tried on them. Raises UnsupportedModel when none gives y.
    """
    bias = getattr(norm, "bias", None)
    want = (y if bias is None else y - bias).detach().float()
    for form in _forms(norm):
        value = form(x, y).detach().float()
        if (value - want).abs().max() <= TOLERANCE.get(y.dtype, 1e-4) * want.abs().max():
            return form
    raise UnsupportedModel(
        f"{type(norm).__name__} is neither a root mean square norm nor a layer norm, with weight w, 1 + w or none, so "
        f"its scale cannot be held constant"
    )


def _forms(norm: nn.Module) -> Iterator[NormForm]:
    weight = getattr(norm, "weight", None)
    weights = [None] if weight is None else [weight, 1.0 + weight]
    names = ("variance_epsilon", "eps")
    eps = next((float(getattr(norm, name)) for name in names if hasattr(norm, name)), EPS)
    for centred in (False, True):
        for w in weights:
            yield _scaled(w, eps, centred)


def _scaled(weight: Tensor | None, eps: float, centred: bool) -> NormForm:
    def form(x: Tensor, y: Tensor) -> Tensor:
        wide = x.float()
        wide = wide - wide.mean(-1, keepdim=True) if centred else wide
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps).detach()
        return (wide * scale * (1.0 if weight is None else weight.detach().float())).to(y.dtype)

    return form
