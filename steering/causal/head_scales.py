"""Head scales: multiply every head's z by a number, for all heads of all blocks at once, with different numbers for
every row of the batch.

A scale of 1 leaves a head bit-identical; 0 is zero ablation. Gradients flow to the scales. Heads can also be ablated by
giving them uniform attention.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question, per_question
from trimtab.steering.errors import SteeringError, UnknownName
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import Look, attending
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site

OPERATORS = ("uniform", "zero")

Scales = Float[Tensor, "rows layers heads"]


@contextmanager
def scaled_heads(anatomy: Anatomy, scales: Scales) -> Iterator[None]:
    """While the block runs, z of head h in block l is multiplied by `scales[row, l, h]` at every token.

    rows: those of the batch, or 1 for all rows alike. Raises SteeringError when the shape is not the model's.
    """
    want = (anatomy.n_layers, anatomy.n_heads)
    if scales.ndim != 3 or tuple(scales.shape[1:]) != want:
        raise SteeringError(
            f"head scales of shape {list(scales.shape)} do not fit a model of {want[0]} blocks and {want[1]} heads: "
            f"give [rows, {want[0]}, {want[1]}]"
        )
    edits = [(Site("z", block), _times(scales[:, block], anatomy.d_head)) for block in range(anatomy.n_layers)]
    with hooked(anatomy, edits=edits):
        yield


@contextmanager
def ablated_heads(anatomy: Anatomy, heads: Bool[Tensor, "rows layers heads"], operator: str) -> Iterator[None]:
    """While the block runs, the given heads of each row are ablated at every token.

    zero: the head's output is 0 ("scaling contribution" in the paper). uniform: equal attention to all keys that a
    query may see, with unchanged values ("undifferentiated attention": the effect of scaling the query projection
    towards 0, in families without a query bias or query norm, which would undo the scaling). Raises UnknownName for
    another operator.
    """
    if operator not in OPERATORS:
        raise UnknownName("head ablation operator", operator, OPERATORS)
    if operator == "zero":
        with scaled_heads(anatomy, (~heads).float()):
            yield
        return

    def flatten(look: Look) -> Tensor:
        return torch.where(heads[:, look.block, :, None, None], look.uniform(), look.pattern)

    with attending(anatomy, flatten):
        yield


def scales_of_one(anatomy: Anatomy, rows: int = 1) -> Scales:
    """Scales that change nothing, float32, on the model's device."""
    return torch.ones(rows, anatomy.n_layers, anatomy.n_heads, device=anatomy.device)


def each_head_alone(anatomy: Anatomy) -> Bool[Tensor, "n layers heads"]:
    """Boolean sets of heads, one set for every head, which contains that head only; `z.0.0` first, n = layers x
    heads."""
    n = anatomy.n_layers * anatomy.n_heads
    return torch.eye(n, dtype=torch.bool, device=anatomy.device).reshape(n, anatomy.n_layers, anatomy.n_heads)


def scaled_logprobs(
    anatomy: Anatomy, scales: Scales, questions: Sequence[Question], budget: int = PASS_BUDGET
) -> np.ndarray:
    """`[sets questions]` mean log-probability per answer token under every set of scales, nats."""
    return per_question(questions, anatomy.device, lambda batch: _answered(anatomy, batch, scales, budget), budget).T


def passes(batch: Batch, sets: Tensor, budget: int) -> tuple[Tensor, ...]:
    """`sets` in parts that fit one forward pass: a part's copies of the batch have at most `budget` tokens together, or
    it is a single copy."""
    return sets.split(max(1, budget // batch.clean.numel()))


def _answered(anatomy: Anatomy, batch: Batch, scales: Scales, budget: int) -> Float[Tensor, "sets b"]:
    logprobs = []
    for part in passes(batch, scales, budget):
        rows = batch.tiled(len(part))
        with torch.no_grad(), scaled_heads(anatomy, part.repeat_interleave(batch.rows, 0)):
            logprobs.append(rows.logprob(rows.logits(anatomy.model)).reshape(len(part), -1))
    return torch.cat(logprobs)


def _times(scales: Float[Tensor, "rows heads"], d_head: int) -> Callable[[Tensor], Tensor]:
    def edit(z: Tensor) -> Tensor:
        rows, tokens = z.shape[:2]
        per_head = z.reshape(rows, tokens, -1, d_head)
        return (per_head * scales[:, None, :, None].to(z.dtype)).reshape(z.shape)

    return edit
