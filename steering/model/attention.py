"""Attention patterns: read them, change them, or take gradients with respect to them, in every family that calls its
attention through transformers' attention interface. No other file replaces an attention function.

Inside `attending`, attention is computed step by step (scores, soft cap, mask, softmax in float32) instead of by a
fused kernel. As long as no pattern is changed, logits stay the same within rounding.
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
    """The attention of one block in one forward pass, of `b` rows, `h` query heads and `s` tokens.

    block: its number, from 0. query, key, value: `[b h s d]`, after position embedding; keys and values are repeated
    for query heads that share them. pattern: `[b h s s]`, attention weights of each query (third axis) over the keys,
    which sum to 1. mask: added to the scores, 0 where a query may see a key and very negative elsewhere. scaling:
    factor of `query . key`. softcap: scores are `softcap * tanh(scores / softcap)`; None for families without a cap.
    """

    block: int
    query: Tensor
    key: Tensor
    value: Tensor
    pattern: Tensor
    mask: Tensor
    scaling: float
    softcap: float | None

    def scores(self, query: Tensor, key: Tensor) -> Float[Tensor, "b h s s"]:
        """Scores before the softmax for other queries or keys `[b h s d]`, with soft cap and mask."""
        return _scores(query, key, self.scaling, self.softcap) + self.mask

    def uniform(self) -> Float[Tensor, "b h s s"]:
        """The pattern with equal weight on every key that a query may see."""
        return _softmax(torch.zeros_like(self.pattern) + self.mask, self.pattern.dtype)


PatternChange = Callable[[Look], Tensor | None]


@contextmanager
def attending(anatomy: Anatomy, change: PatternChange) -> Iterator[None]:
    """Inside the `with` block, call `change` with the attention of every transformer block in every forward pass.

    change: returns another pattern `[b h s s]` to go on with, or None to leave it as it is.

    Raises UnsupportedModel for families with attention code of their own (gptj, gpt_neo) and for softmaxes with learned
    sinks, and SilentNoOp when the model did not run inside the `with` block.
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
