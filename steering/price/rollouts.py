"""Rollouts: text that steered models write, and what it cost them, for one plan or for several in one batch.

A decoding step of a few rows costs nearly what a step of one row costs: the weights must pass anyway. So plans that
need the same rollouts write side by side, each on its own rows, behind prompts that run once; and the logits that
wrote a token are the steered ones that its KL needs, so only the base model reads the text again, from the first block
that a plan changes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.resuming import can_resume, resumed, stream_of
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan, steer_rows
from trimtab.steering.price.kl import kl_at
from trimtab.steering.running.resume import Begun, untouched_blocks
from trimtab.steering.running.scorer import Scorer, leaves_prompts
from trimtab.steering.running.writing import Decoding, Draw, decode, generate

ROWS = 128  # in one batch: on two cores a row of 64 costs 1.2 times one of 128, a row of 32 twice as much
LOGITS_BYTES = 2**29  # logits stored until the base model has read the text


def roll_out(
    model: PreTrainedModel, plan: SteeringPlan | None, prompts: Sequence[Tokens], decoding: Decoding
) -> list[Tokens]:
    """What the model writes under the plan, as texts to score.

    An answer that stopped by itself gets one token more: stopping was a choice of the next token too, and a plan that
    only makes answers end early would cost nothing without it. (The KL there does not depend on which token it is.)
    """
    return finished(model, prompts, generate(model, prompts, plan, decoding), decoding)


def finished(
    model: PreTrainedModel, prompts: Sequence[Tokens], written: Sequence[list[int]], decoding: Decoding
) -> list[Tokens]:
    """Prompts with what was written, and the end where the model chose to end."""
    end = next(iter(Anatomy.of(model).end_tokens), 0)
    stopped = [ids if len(ids) == decoding.max_new_tokens else [*ids, end] for ids in written]
    return [prompt.followed_by(ids) for prompt, ids in zip(prompts, stopped, strict=True)]


def roll_out_together(
    scorer: Scorer, plans: Sequence[SteeringPlan | None], prompts: Sequence[Tokens], decoding: Decoding
) -> list[list[Tokens]]:
    """`roll_out` of several plans (None: the base model), whose answers are written side by side."""
    written = generate_together(scorer, plans, prompts, decoding)
    return [finished(scorer.model, prompts, answers, decoding) for answers in written]


def generate_together(
    scorer: Scorer, plans: Sequence[SteeringPlan | None], prompts: Sequence[Tokens], decoding: Decoding
) -> list[list[list[int]]]:
    """`generate` under several plans (None: the base model), side by side: per plan and prompt, token ids."""
    answers: list[list[list[int]]] = [[] for _ in plans]
    for batch in _row_batches(scorer, plans, prompts, decoding):
        written = batch.written(scorer, _StepOutputs(0))
        for k, number in enumerate(batch.numbers):
            answers[number] += written[k * len(batch.prompts) : (k + 1) * len(batch.prompts)]
    return answers


def rolled_divergences(
    scorer: Scorer, plans: Sequence[SteeringPlan], prompts: Sequence[Tokens], decoding: Decoding
) -> list[list[Float[np.ndarray, "n_i"]]]:
    """Per plan and prompt, KL(steered || base), nats, at every token that the steered model wrote: float64 `[n_i]`.

    The same numbers as `divergences` over `roll_out`, plan by plan, within the float tolerance: row k of every plan
    draws from stream `seed + k`.
    """
    per_plan: list[list[np.ndarray]] = [[] for _ in plans]
    for batch in _row_batches(scorer, plans, prompts, decoding):
        spent = _divergences(scorer, batch)
        for k, number in enumerate(batch.numbers):
            per_plan[number] += spent[k * len(batch.prompts) : (k + 1) * len(batch.prompts)]
    return per_plan


def rows_at_once(scorer: Scorer, decoding: Decoding) -> int:
    """Rows of one batch: ROWS, or as many as have their logits in LOGITS_BYTES."""
    vocabulary = Anatomy.of(scorer.model).d_vocab
    return max(1, min(ROWS, LOGITS_BYTES // max(4 * decoding.max_new_tokens * vocabulary, 1)))


def mean_divergence(per_text: Sequence[Float[np.ndarray, "n_i"]]) -> float:
    """Mean nats per token; inf when the steered logits were not finite, or nothing was written."""
    values = np.concatenate(per_text)
    return float(values.mean()) if len(values) and np.isfinite(values).all() else math.inf


@dataclass(frozen=True, eq=False)
class _RowBatch:
    """One batch of rows: every plan (None: the base model) on all prompts. numbers: of the plans among all. decoding:
    its seed is that of the first prompt."""

    numbers: Sequence[int]
    plans: Sequence[SteeringPlan | None]
    prompts: Sequence[Tokens]
    decoding: Decoding

    @property
    def rows(self) -> list[Tokens]:
        """Plan after plan, all prompts."""
        return [*self.prompts] * len(self.plans)

    def written(self, scorer: Scorer, steps: "_StepOutputs") -> list[list[int]]:
        """Token ids of every row's answer. steps: gets what the steps give."""
        rows, seeds = self.rows, [self.decoding.seed + k for k in range(len(self.prompts))]
        draw, limit = Draw(self.decoding, seeds * len(self.plans)), self.decoding.max_new_tokens
        cache, lengths = _shared(scorer, self.plans, rows), [row.prompt_length for row in rows]
        with torch.inference_mode(), steps.recorded(scorer), steer_rows(scorer.model, self.plans, lengths):
            return decode(scorer.model, rows, draw, limit, steps.add, cache)


def _row_batches(
    scorer: Scorer, plans: Sequence[SteeringPlan | None], prompts: Sequence[Tokens], decoding: Decoding
) -> Iterator[_RowBatch]:
    rows = rows_at_once(scorer, decoding)
    for first in range(0, len(prompts), rows):
        some = prompts[first : first + rows]
        size, stream = max(1, rows // len(some)), replace(decoding, seed=decoding.seed + first)
        for start in range(0, len(plans), size):
            numbers = range(start, min(start + size, len(plans)))
            yield _RowBatch(numbers, plans[start : start + size], some, stream)


def _divergences(scorer: Scorer, batch: _RowBatch) -> list[Float[np.ndarray, "n_i"]]:
    """KL(steered || base) of a batch's rows."""
    steps = _StepOutputs.of(scorer, batch.plans)
    texts = finished(scorer.model, batch.rows, batch.written(scorer, steps), batch.decoding)
    per_row = [np.zeros(0)] * len(texts)
    for base in scorer.base(texts, steps.begun(texts)):
        k, n = base.example, len(base.targets)
        per_row[k] = kl_at(batch.decoding.sampling, steps.of_row(k, n), base.logits)
    return per_row


def _shared(scorer: Scorer, plans: Sequence[SteeringPlan | None], rows: Sequence[Tokens]) -> DynamicCache | None:
    """The base model's cache of the rows' prompts, where it is that of every plan too; None where it is not."""
    if all(plan is None or leaves_prompts(plan) for plan in plans) and all(row.prompt_length > 1 for row in rows):
        return scorer.cache([row.prompt for row in rows])
    return None


@dataclass(frozen=True, eq=False)
class _StepOutputs:
    """What the steps of a decoding gave. depth: blocks, from the first, that no plan changes (0: nothing is stored of
    them). logits, streams: per step, of the next token `[b v]`, and what the last of these blocks returned `[b d]`."""

    depth: int
    logits: list[Tensor] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)
    _output: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scorer: Scorer, plans: Sequence[SteeringPlan | None]) -> "_StepOutputs":
        anatomy = Anatomy.of(scorer.model)
        return cls(min(untouched_blocks(anatomy, plan) for plan in plans) if can_resume(anatomy, scorer.model) else 0)

    def recorded(self, scorer: Scorer) -> AbstractContextManager[int]:
        """While the block runs, the streams of passes are there for `add`."""
        return resumed(Anatomy.of(scorer.model), 0, self.depth, self._output)

    def add(self, logits: Tensor) -> None:
        """A step is over."""
        self.logits.append(logits)
        if self.depth:
            self.streams.append(stream_of(self._output[self.depth])[:, -1])

    def of_row(self, row: int, tokens: int) -> Tensor:
        """Logits `[tokens v]` of a row's first tokens."""
        return torch.stack([step[row] for step in self.logits[:tokens]]).float()

    def begun(self, texts: Sequence[Tokens]) -> Begun | None:
        """Where the base model may begin to read what was written, row by row."""
        if not self.depth:
            return None
        lengths = [len(text) - text.prompt_length for text in texts]
        stacked = torch.stack(self.streams, dim=1)
        return Begun(self.depth, [stacked[k, :n] for k, n in enumerate(lengths)], self._output[self.depth])
