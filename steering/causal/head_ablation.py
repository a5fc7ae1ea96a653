"""Heads ablated in sets, a different set for every row: zeroed, or made to attend uniformly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor

from trimtab.steering.causal.head_scales import gated
from trimtab.steering.errors import UnknownName
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import Look, attending

OPERATORS = ("uniform", "zero")


@contextmanager
def ablated(anatomy: Anatomy, chosen: Bool[Tensor, "rows layers heads"], operator: str) -> Iterator[None]:
    """While the block runs, the chosen heads of each row are ablated at every token.

    uniform: equal attention to all keys a query may see, values kept ("undifferentiated attention": what scaling the
    query projection by almost nothing does, where no query bias or query norm undoes that). zero: no output at all
    ("scaling contribution"). Raises UnknownName.
    """
    if operator not in OPERATORS:
        raise UnknownName("head ablation operator", operator, OPERATORS)
    if operator == "zero":
        with gated(anatomy, (~chosen).float()):
            yield
        return

    def flatten(look: Look) -> Tensor:
        return torch.where(chosen[:, look.block, :, None, None], look.uniform(), look.pattern)

    with attending(anatomy, flatten):
        yield
