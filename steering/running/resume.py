"""Scoring that resumes in depth: given texts run through the blocks below a plan's first edit once, however many plans
and strengths are scored on them.

A plan whose first edit is at block b leaves every block below as the base model has it. So what enters block b is
stored when a batch of texts first runs, and later passes over the same batch begin there, at the stored depth nearest
below their own first edit.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.resuming import resumed
from trimtab.steering.plans.plan import SteeringPlan

KEPT_BYTES = 2**28


def untouched_blocks(anatomy: Anatomy, plan: SteeringPlan | None) -> int:
    """How many blocks, from the first, a plan leaves as the base model has them: all without a plan, none when a gate
    reads its prompt."""
    if plan is None:
        return anatomy.n_layers
    if plan.gated:
        return 0
    acting = (step.site for step in plan.interventions if step.strength)
    return min((anatomy.blocks_before(site) for site in acting), default=anatomy.n_layers)


@dataclass(frozen=True)
class Depth:
    """untouched: blocks, from the first, that a pass may leave out. stored: the depth whose residual stream it stores
    when it runs through it, for passes to come."""

    untouched: int
    stored: int


WHOLE = Depth(0, 0)  # from the first block, and nothing stored


@dataclass(frozen=True, eq=False)
class Begun:
    """Where passes over given texts begin when the blocks below ran elsewhere. depth: how many. rows: per text, the
    residual stream `[n d]` behind them at its last prompt token and all but the last of its completion. output: what a
    block returns, of any text."""

    depth: int
    rows: Sequence[Tensor]
    output: Any

    def of(self, texts: Sequence[int]) -> dict[int, Any]:
        """For a pass over these texts, padded behind."""
        stream = torch.nn.utils.rnn.pad_sequence([self.rows[k] for k in texts], batch_first=True)
        return {self.depth: (stream, *self.output[1:]) if isinstance(self.output, tuple) else stream}


@dataclass(frozen=True, eq=False)
class Streams:
    """Residual streams between blocks, per batch of texts. keep: bytes of all of them; beyond it, the batches that were
    not used for the longest time are forgotten, and run from the first block again."""

    keep: int = KEPT_BYTES
    _batches: "OrderedDict[tuple[bytes, ...], dict[int, Any]]" = field(default_factory=OrderedDict, repr=False)

    @contextmanager
    def resumed(self, anatomy: Anatomy, batch: tuple[bytes, ...], depth: Depth) -> Iterator[int]:
        """For one pass over a batch, always with the same masks and cache: how many blocks it leaves out."""
        streams = self._batches.setdefault(batch, {})
        self._batches.move_to_end(batch)
        with resumed(anatomy, depth.untouched, depth.stored, streams) as start:
            yield start
        while self._batches and self.bytes > self.keep:
            self._batches.popitem(last=False)

    @property
    def bytes(self) -> int:
        """Of all stored streams."""
        return sum(_bytes(output) for streams in self._batches.values() for output in streams.values())


def _bytes(output: Any) -> int:
    parts = output if isinstance(output, tuple) else (output,)
    return sum(int(part.nbytes) for part in parts if isinstance(part, Tensor))
