"""Question: a prompt and its right answer, as token ids, which is all that a localiser runs a model on; and questions
as padded batches.

The answer is forced: the model reads prompt and answer in one pass, and the logits are taken at the last prompt token
and at all answer tokens but the last. The metric is the mean log-probability per answer token, or, when a wrong answer
is given, the logit difference at the first answer token. Both are in nats (a difference of logits is a difference of
log-probabilities); higher is better.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.errors import BadQuestion
from trimtab.steering.model.batching import batches
from trimtab.steering.model.tokens import Tokens

PASS_BUDGET = 1024  # tokens of one forward pass, padding included


@dataclass(frozen=True, eq=False)
class Question:
    """clean: the prompt (a completion in it is ignored). target: token ids of the right answer. corrupted: a prompt of
    the same length whose right answer is another one, for patching. wrong: token ids of the answer to compare with;
    its first token must differ from the target's. Raises BadQuestion when these do not fit each other."""

    clean: Tokens
    target: tuple[int, ...]
    corrupted: Tokens | None = None
    wrong: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", tuple(int(i) for i in self.target))
        if self.wrong is not None:
            object.__setattr__(self, "wrong", tuple(int(i) for i in self.wrong))
        if not self.target or not self.clean.prompt_length:
            raise BadQuestion(f"a prompt of {self.clean.prompt_length} tokens and a target of {len(self.target)}: a "
                              f"question needs at least one token of each")  # fmt: skip
        if self.wrong is not None and (not self.wrong or self.wrong[0] == self.target[0]):
            raise BadQuestion(
                f"right {self.target} and wrong {self.wrong} answers must differ in their first token: the logit "
                f"difference is taken there, and would be 0 for every model"
            )
        if self.corrupted is not None and self.corrupted.prompt_length != self.clean.prompt_length:
            raise BadQuestion(
                f"the clean prompt has {self.clean.prompt_length} tokens, the corrupted one "
                f"{self.corrupted.prompt_length}; patching goes token by token, so give a corruption of equal length"
            )

    @property
    def length(self) -> int:
        """Tokens of a forced pass: the prompt and the answer without its last token."""
        return self.clean.prompt_length + len(self.target) - 1

    def ids(self, side: Literal["clean", "corrupted"] = "clean") -> np.ndarray:
        """`[length]` token ids of the forced pass. Raises BadQuestion when there is no corrupted prompt."""
        prompt = self.clean if side == "clean" else self.corrupted
        if prompt is None:
            raise BadQuestion("this question has no corrupted prompt; patching needs one of the clean prompt's length")
        return np.concatenate([prompt.ids[: prompt.prompt_length], np.asarray(self.target[:-1], np.int64)])


def prompts_of(questions: Sequence[Question]) -> list[bytes]:
    """`[questions]` labels that are equal for questions with the same clean prompt. Such questions are not independent,
    so the bootstrap resamples them together."""
    return [question.clean.prompt.ids.tobytes() for question in questions]


@dataclass(frozen=True, eq=False)
class Batch:
    """Questions as one forward pass. numbers: which questions these are, in a longer list.

    clean, corrupted: `[b s]` token ids (corrupted None without corrupted prompts). mask, positions: `[b s]` when padded
    left, else None: padding right of causal attention is seen by no real token, so fast kernels stay in use. last:
    `[b]` column of the last prompt token. row, column, target: `[n]`, where each answer token's logits stand (its row,
    its column) and its id, all rows' first answer tokens first. wrong: `[b]` or None.
    """

    numbers: tuple[int, ...]
    clean: Tensor
    corrupted: Tensor | None
    mask: Tensor | None
    positions: Tensor | None
    last: Tensor
    row: Tensor
    column: Tensor
    target: Tensor
    wrong: Tensor | None

    @classmethod
    def of(
        cls, questions: Sequence[Question], numbers: Sequence[int], device: torch.device, left: bool = False
    ) -> "Batch":
        """The questions with these `numbers` as one batch, padded right (`left`: padded before the text, with a
        mask)."""
        members = [questions[i] for i in numbers]
        width = max(q.length for q in members)
        starts = torch.tensor([width - q.length if left else 0 for q in members])
        last = starts + torch.tensor([q.clean.prompt_length - 1 for q in members])
        places = [(step, k) for k, q in enumerate(members) for step in range(len(q.target))]
        places.sort()  # first answer tokens of all rows first
        mask = torch.tensor([[int(c >= start) for c in range(width)] for start in starts.tolist()]) if left else None
        batch = cls(
            numbers=tuple(numbers),
            clean=_padded([q.ids() for q in members], starts, width),
            corrupted=None
            if members[0].corrupted is None
            else _padded([q.ids("corrupted") for q in members], starts, width),
            mask=mask,
            positions=None if mask is None else (mask.cumsum(1) - 1).clamp(min=0),
            last=last,
            row=torch.tensor([k for _, k in places]),
            column=torch.tensor([int(last[k]) + step for step, k in places]),
            target=torch.tensor([members[k].target[step] for step, k in places]),
            wrong=None
            if members[0].wrong is None
            else torch.tensor([q.wrong[0] for q in members if q.wrong is not None]),
        )
        return batch._moved(device)

    @property
    def rows(self) -> int:
        return len(self.last)

    def tiled(self, copies: int) -> "Batch":
        """The same rows `copies` times, one copy after another: row r of copy c is row c * rows + r."""

        def again(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.repeat(copies, *[1] * (x.ndim - 1))

        first, rest = slice(0, self.rows), slice(self.rows, None)
        shift = torch.arange(copies, device=self.row.device)[:, None] * self.rows

        def steps(x: Tensor, moved: bool = False) -> Tensor:
            parts = (x[None, part].expand(copies, -1) + (shift if moved else 0) for part in (first, rest))
            return torch.cat([part.reshape(-1) for part in parts])

        whole = {
            name: again(getattr(self, name)) for name in ("clean", "corrupted", "mask", "positions", "last", "wrong")
        }
        return replace(
            self,
            numbers=self.numbers * copies,
            row=steps(self.row, moved=True),
            column=steps(self.column),
            target=steps(self.target),
            **whole,  # type: ignore[arg-type]
        )

    def logits(self, model: PreTrainedModel, side: Literal["clean", "corrupted"] = "clean") -> Float[Tensor, "n v"]:
        """Run the model and return logits `[n v]`, float32 or float64, at the positions that predict each answer token,
        in the order of `row`."""
        ids = self.clean if side == "clean" else self.corrupted
        columns, where = torch.unique(self.column, return_inverse=True)
        inputs = {} if self.mask is None else {"attention_mask": self.mask, "position_ids": self.positions}
        out = model(input_ids=ids, use_cache=False, logits_to_keep=columns, **inputs).logits
        answers = out[self.row, where]
        return answers if answers.dtype == torch.float64 else answers.float()

    def first(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, "b v"]:
        """The entries of `logits` at the last prompt token, `[b v]`, in the order of the rows."""
        return logits[: self.rows]

    def metric(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, "b"]:
        """Nats per row, higher is better; see the head of this file."""
        if self.wrong is None:
            return self.logprob(logits)
        first = self.first(logits)
        rows = torch.arange(self.rows, device=first.device)
        return first[rows, self.target[: self.rows]] - first[rows, self.wrong]

    def logprob(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, "b"]:
        """Mean log-probability per token of the right answer, nats per row, whether there is a wrong one or not."""
        logprobs = logits.gather(-1, self.target[:, None])[:, 0] - logits.logsumexp(-1)
        counts = torch.bincount(self.row, minlength=self.rows)
        return logprobs.new_zeros(self.rows).index_add(0, self.row, logprobs) / counts

    def _moved(self, device: torch.device) -> "Batch":
        names = ("clean", "corrupted", "mask", "positions", "last", "row", "column", "target", "wrong")
        tensors = {name: getattr(self, name) for name in names}
        return replace(self, **{name: x.to(device) for name, x in tensors.items() if x is not None})


def question_batches(
    questions: Sequence[Question], device: torch.device, budget: int = PASS_BUDGET, copies: int = 1
) -> Iterator[Batch]:
    """Batches of questions of similar length. `budget`: tokens of a batch, `copies` of every row counted. The batches
    are not in the questions' order; `Batch.numbers` says which questions they hold."""
    for numbers in batches([q.length * copies for q in questions], budget):
        yield Batch.of(questions, numbers, device)


def per_question(
    questions: Sequence[Question],
    device: torch.device,
    measure: Callable[[Batch], Float[Tensor, "n b"]],
    budget: int = PASS_BUDGET,
) -> Float[np.ndarray, "questions n"]:
    """The measure of all questions, float64, in the questions' order. `measure` returns n numbers for each row of a
    batch. budget: tokens of a batch."""
    columns: list[np.ndarray] = [np.empty(0)] * len(questions)
    for batch in question_batches(questions, device, budget):
        for number, row in zip(batch.numbers, measure(batch).T.double().cpu().numpy(), strict=True):
            columns[number] = row
    return np.stack(columns)


def check_questions(questions: Sequence[Question], needs: Sequence[str] = ()) -> None:
    """Raises BadQuestion when there are none, when some have a wrong answer or a corrupted prompt and others have not,
    or when all lack what a method needs (`corrupted`, `wrong`)."""
    if not questions:
        raise BadQuestion("no questions: nothing can be ranked; give at least one prompt with its answer")
    for name in ("corrupted", "wrong"):
        have = sum(getattr(q, name) is not None for q in questions)
        if have not in (0, len(questions)):
            raise BadQuestion(f"{have} of {len(questions)} questions have '{name}'; give it to all of them or to none")
        if name in needs and not have:
            raise BadQuestion(f"the questions have no '{name}' answer or prompt, which this method compares with")


LOGPROB = "mean log-probability per token of the right answer, nats"
DIFFERENCE = "logit of the right minus logit of the wrong answer's first token, nats"


def metric_name(questions: Sequence[Question]) -> str:
    """What `Batch.metric` is for these questions, in plain words."""
    return LOGPROB if questions[0].wrong is None else DIFFERENCE


def _padded(rows: Sequence[np.ndarray], starts: Tensor, width: int) -> Tensor:
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for k, row in enumerate(rows):
        ids[k] = int(row[0])  # a real token: models warn of pad tokens where no mask is given
        ids[k, int(starts[k]) : int(starts[k]) + len(row)] = torch.from_numpy(row)
    return ids
