"""A bias on the logits of a model for a while: what changes which tokens come without touching an activation."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model.unwrap import causal_lm


@contextmanager
def logit_bias(model: nn.Module, bias: Float[Tensor, "v"]) -> Iterator[None]:
    """While the block runs, `bias` is added to what the head of the model computes, before a soft cap where the family
    has one, wherever its logits are computed. Raises UnsupportedModel when the head is no linear layer."""
    head = _head(model)
    before = head.bias
    added = bias.to(head.weight) if before is None else before.detach() + bias.to(before)
    head.bias = nn.Parameter(added, requires_grad=False)
    try:
        yield
    finally:
        head.bias = before


def takes_bias(model: nn.Module) -> bool:
    """True when `logit_bias` works on this model."""
    return isinstance(causal_lm(model).get_output_embeddings(), nn.Linear)


def _head(model: nn.Module) -> nn.Linear:
    head = causal_lm(model).get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UnsupportedModel(f"the head is a {type(head).__name__}, which takes no bias on its logits")
    return head
