"""Attention patterns: read them, change them, ask for their gradients, in every family that calls its attention through
transformers' interface. The only file that replaces an attention function.

While `attending` is on, attention is computed in the open (scores, soft cap, mask, softmax in float32) instead of in a
fused kernel; without a change the model's answers are the same within rounding.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trimtab.steering.errors import SilentNoOp, UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy

NAME = "trimtab"


@dataclass(frozen=True, eq=False)
class Look:
    """One block's attention in one pass. query, key, value: `[b h s d]` as they meet, after position embedding, keys
    and values repeated for the query heads that share them. pattern: `[b h s s]`, rows sum to 1."""

    block: int
    query: Tensor
    key: Tensor
    value: Tensor
    pattern: Tensor
    mask: Tensor
    scaling: float
    softcap: float | None

    def scores(self, query: Tensor, key: Tensor) -> Float[Tensor, "b h s s"]:
        """What the softmax would see with this query or key instead, soft cap and mask included."""
        return _scores(query, key, self.scaling, self.softcap) + self.mask

    def uniform(self) -> Float[Tensor, "b h s s"]:
        """Equal attention to every key a query may see."""
        return _softmax(torch.zeros_like(self.pattern) + self.mask, self.pattern.dtype)


PatternChange = Callable[[Look], Tensor | None]


@contextmanager
def attending(anatomy: Anatomy, change: PatternChange) -> Iterator[None]:
    """While the block runs, `change` sees every block's attention and may return another pattern (None: as it is).

    Raises UnsupportedModel for families with attention code of their own (gptj, gpt_neo), SilentNoOp when a pass did
    not reach it.
    """
    _check(anatomy)
    config = anatomy.text_config
    before, calls = config._attn_implementation, [0]
    blocks = {id(m): k for k, block in enumerate(anatomy.blocks) for m in block.modules()}

    def counted(module: nn.Module, look: Look) -> Tensor | None:
        calls[0] += 1
        return change(look)

    _STACK.append((blocks, counted))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _STACK.pop()
    if not calls[0]:
        raise SilentNoOp("attention was changed around a block in which the model never ran, so nothing happened")


def _check(anatomy: Anatomy) -> None:
    sources = {type(m).__module__ for m in anatomy.blocks[0].modules() if "Attention" in type(m).__name__}
    if not any(hasattr(sys.modules[name], "ALL_ATTENTION_FUNCTIONS") for name in sources):
        raise UnsupportedModel(
            f"{anatomy.text_config.model_type} computes attention in code of its own, so its patterns cannot be reached"
        )


_STACK: list[tuple[dict[int, int], Callable[[nn.Module, Look], Tensor | None]]] = []


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """transformers calls this with options of its own choice; those that change the result are read here."""
    if options.get("s_aux") is not None:
        raise UnsupportedModel("this model's softmax has learned sinks, which open attention does not compute")
    scaling, softcap = options.get("scaling"), options.get("softcap")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    pattern = _softmax(_scores(query, key, scaling, softcap) + attention_mask, query.dtype)
    blocks, change = _STACK[-1]
    look = Look(blocks[id(module)], query, key, value, pattern, attention_mask, scaling, softcap)
    changed = change(module, look)
    pattern = pattern if changed is None else changed
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


def _scores(query: Tensor, key: Tensor, scaling: float, softcap: float | None) -> Tensor:
    scores = query @ key.transpose(-1, -2) * scaling
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    return scores.softmax(-1, dtype=torch.float32).to(dtype)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
