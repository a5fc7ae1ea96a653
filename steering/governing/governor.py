"""The KL governor: a bound on what steering may spend, exact at every generated token.

Every row runs twice, steered and unsteered, and the next token is drawn from the mixture of both (`mixing.py`) with
the most steering that the budget buys. Both sides are the distributions that are sampled from, after temperature,
top-k, penalties and every other processor of `model.generate` (`governed.py`), so the bound is one on what is sampled;
for greedy decoding, on the softmax whose largest entry is taken. By the chain rule a T-token answer stays within T *
budget, or within a sequence budget that is spent token by token.

A plain forward pass returns logits that are mixed at temperature 1; what the caller does to them afterwards is not
bounded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.governing.mixing import Mixed, govern
from trimtab.steering.model.span import Positions

NAMES = tuple(part.name for part in fields(Mixed))
ROWS = 64  # of [n v] mixed at once: a few float64 temporaries each


@dataclass(frozen=True)
class Governor:
    """per_token: nats that one token may spend. sequence: nats that a whole answer may spend (None: no such bound)."""

    per_token: float
    sequence: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("per_token", self.per_token), ("sequence", self.sequence)):
            if value is not None and not value >= 0:
                raise SteeringError(f"the governor's {name} budget is {value} nats; a KL budget is 0 or more")


@dataclass(frozen=True, eq=False)
class Entry:
    """One token of every row `[b]`, on the CPU. answer: number of the batch of answers. length: columns of text before
    the token. writes: rows that wrote an answer's token here; the others (still in their prompt, or ended) spent 0."""

    answer: int
    length: int
    asked: Float[Tensor, "b"]
    spent: Float[Tensor, "b"]
    share: Float[Tensor, "b"]
    acted: Bool[Tensor, "b"]
    writes: Bool[Tensor, "b"]

    @classmethod
    def of(cls, mixed: Mixed, answer: int, length: int, writes: Tensor) -> "Entry":
        """What was done at this token, in rows that write."""
        uncapped, spent = (torch.where(writes, nats, 0.0).cpu() for nats in (mixed.asked, mixed.spent))
        share = torch.where(writes & mixed.acted, mixed.share, 1.0)
        return cls(answer, length, uncapped, spent, share.cpu(), (mixed.acted & writes).cpu(), writes.cpu())


@dataclass
class Ledger:
    """What the governor did, one entry per token that was kept; tokens that assisted decoding rejected are withdrawn.

    asked: KL(steered || base) that the plan would have spent, inf where only the base forbids one of its tokens.
    spent: KL(sampled from || base). share: how far from base to steered, 1 where the governor did not act. Each a
    list of `[b]`, nats except `share`.
    """

    entries: list[Entry] = field(default_factory=list)

    @property
    def asked(self) -> list[Float[Tensor, "b"]]:
        return [entry.asked for entry in self.entries]

    @property
    def spent(self) -> list[Float[Tensor, "b"]]:
        return [entry.spent for entry in self.entries]

    @property
    def share(self) -> list[Float[Tensor, "b"]]:
        return [entry.share for entry in self.entries]

    def total(self) -> Float[Tensor, "answers"]:
        """Nats spent by each answer so far: the rows of the first batch, then those of the next."""
        answers: dict[int, Tensor] = {}
        for entry in self.entries:
            answers[entry.answer] = answers.get(entry.answer, 0.0) + entry.spent
        return torch.cat(list(answers.values())) if answers else torch.zeros(0, dtype=torch.float64)

    def held_back(self) -> float:
        """Share of tokens at which the governor acted."""
        written = sum(int(entry.writes.sum()) for entry in self.entries)
        return sum(int(entry.acted.sum()) for entry in self.entries) / written if written else 0.0

    def withdraw(self, answer: int, length: int) -> None:
        """Forget the tokens of an answer that stood at `length` columns or behind: they were not kept."""
        while self.entries and self.entries[-1].answer == answer and self.entries[-1].length >= length:
            self.entries.pop()


@dataclass(frozen=True, eq=False)
class Halves:
    """One doubled pass: logits `[b k v]` of the steered and the unsteered rows, and the columns of text at its end."""

    steered: Tensor
    base: Tensor
    columns: int


class Account:
    """The governor at work on one batch: applies the budgets and keeps the ledger.

    sampled: while True, a pass hands out its steered logits as they are, because `settle` will be asked for every
    token when its processors have run; otherwise a pass hands out mixed logits at temperature 1. assisted: a pass
    holds candidates for several tokens, of which some are rejected.
    """

    def __init__(self, governor: Governor):
        self.governor = governor
        self.ledger = Ledger()
        self.sampled = self.assisted = False
        self.halves: Halves | None = None
        self._positions: Positions | None = None
        self._answer = 0

    def new_answer(self) -> None:
        """Every row's sequence budget is whole again."""
        self._answer += 1

    @contextmanager
    def sampling(self, sampled: bool = True) -> Iterator[None]:
        """A decoding: how passes hand out logits is as before when it ends."""
        before = self.sampled, self.assisted
        self.sampled, self.assisted = sampled, False
        try:
            yield
        finally:
            self.sampled, self.assisted = before
            self.halves = None

    def observe(self, positions: Positions) -> None:
        """Which token of its text each token of the coming pass is."""
        self._positions = positions

    def kept(self, columns: int) -> None:
        """The answers ended with this many columns; what was written behind them was not kept."""
        self.ledger.withdraw(self._answer, columns)

    def combine(self, steered: Float[Tensor, "b k v"], base: Float[Tensor, "b k v"], columns: int) -> Tensor:
        """What a doubled pass hands out."""
        if self.sampled:
            self.halves = Halves(steered, base, columns)
            return steered
        return self._mixed(steered, base, columns)

    def settle(
        self, steered: Float[Tensor, "b v"], base: Float[Tensor, "b v"], length: int, writes: Bool[Tensor, "b"]
    ) -> Float[Tensor, "b v"]:
        """The logits that the token after `length` columns is drawn from. writes: rows whose answer has not ended."""
        self.ledger.withdraw(self._answer, length)
        budget = torch.minimum(self._per_token(steered), self._left(steered))
        mixed = govern(base, steered, torch.where(writes, budget, self._per_token(steered)))
        self.ledger.entries.append(Entry.of(mixed, self._answer, length, writes))
        return mixed.logits

    def _mixed(self, steered: Tensor, base: Tensor, columns: int) -> Tensor:
        """A plain pass. Its prompt tokens are within the token budget too, but spend nothing of an answer's; only a
        sequence budget makes positions wait for each other."""
        writes = self._writes(steered)
        first = columns - steered.shape[1] + 1
        serial = writes.any(0) if self.governor.sequence is not None else torch.zeros_like(writes[0])
        logits = self._at_once(steered, base, (~serial).nonzero()[:, 0], first)
        for k in serial.nonzero()[:, 0].tolist():
            logits[:, k] = self.settle(steered[:, k], base[:, k], first + k, writes[:, k])
        return logits

    def _at_once(self, steered: Tensor, base: Tensor, positions: Tensor, first: int) -> Tensor:
        logits, writes = steered.clone(), self._writes(steered)
        step = max(1, ROWS // len(steered))
        for some in positions.split(step):
            first_half, second_half = (half[:, some].flatten(0, 1) for half in (steered, base))
            mixed = govern(second_half, first_half, self._per_token(first_half))
            logits[:, some] = mixed.logits.unflatten(0, (len(steered), len(some)))
            self._enter(mixed, writes, some, first)
        return logits

    def _enter(self, mixed: Mixed, writes: Tensor, some: Tensor, first: int) -> None:
        columns = some.tolist()
        for place, k in enumerate(columns):
            if bool(writes[:, k].any()):
                here = Mixed(*(getattr(mixed, name)[place :: len(columns)] for name in NAMES))
                self.ledger.withdraw(self._answer, first + k)
                self.ledger.entries.append(Entry.of(here, self._answer, first + k, writes[:, k]))

    def _writes(self, steered: Tensor) -> Bool[Tensor, "b k"]:
        """Positions whose logits write an answer: from the last token of the prompt on."""
        rows, columns = steered.shape[:2]
        if self._positions is None:
            return torch.ones(rows, columns, dtype=torch.bool, device=steered.device)
        index = self._positions.index[:rows, -columns:].to(steered.device)
        return (index >= 0) & (index >= self._positions.prompt_length[:rows, None].to(steered.device) - 1)

    def _per_token(self, like: Tensor) -> Float[Tensor, "n"]:
        return torch.full((len(like),), self.governor.per_token, dtype=torch.float64, device=like.device)

    def _left(self, like: Tensor) -> Float[Tensor, "b"]:
        """Nats that each row's answer may still spend."""
        whole = torch.full_like(self._per_token(like), self.governor.sequence or 0.0)
        if self.governor.sequence is None:
            return whole.fill_(torch.inf)
        spent = [entry.spent for entry in self.ledger.entries if entry.answer == self._answer]
        return (whole - torch.stack(spent).sum(0).to(whole)).clamp(min=0) if spent else whole
