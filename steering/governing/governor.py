"""The KL governor: an upper bound (nats) on the KL divergence of steered from unsteered next-token distributions.

Every row of the batch runs twice, steered and unsteered. The next token is drawn from a mixture of both distributions
(`mixing.py`): the one closest to the steered distribution whose KL divergence to the unsteered one is within the
budget. Both distributions are taken after temperature, top-k, penalties and every other logits processor of
`model.generate` (`governed.py`), so the bound holds for the distribution that is sampled from. Greedy decoding takes
the largest entry of that distribution. By the chain rule of KL, an answer of T tokens stays within T * per_token; a
sequence budget bounds the whole answer, and every token reduces what is left of it.

A forward pass outside `model.generate` returns logits mixed at temperature 1. If the caller changes these logits (for
example by a temperature), the bound no longer holds.
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
ROWS = 64  # rows of logits [n v] mixed at once; each needs several float64 temporaries of size v


@dataclass(frozen=True)
class Governor:
    """The budgets. Raises SteeringError for a negative one.

    per_token: largest KL divergence of one token, nats. sequence: largest sum over a whole answer, nats (None: no such
    bound).
    """

    per_token: float
    sequence: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("per_token", self.per_token), ("sequence", self.sequence)):
            if value is not None and not value >= 0:
                raise SteeringError(f"the governor's {name} budget is {value} nats; a KL budget is 0 or more")


@dataclass(frozen=True, eq=False)
class Entry:
    """What the governor did at one position, for every row of the batch; tensors `[b]`, on the CPU.

    answer: number of the batch of answers, from 0. length: columns of text (with padding) before the token. uncapped:
    KL divergence of the plan without a bound, nats. spent: KL divergence of the mixture, nats. share: weight t of the
    steered distribution, 1 where the governor did not act. acted: rows whose distribution was changed. writes: rows
    whose answer got a token here; the others are still in their prompt or have ended, and their KL counts as 0.
    """

    answer: int
    length: int
    uncapped: Float[Tensor, "b"]
    spent: Float[Tensor, "b"]
    share: Float[Tensor, "b"]
    acted: Bool[Tensor, "b"]
    writes: Bool[Tensor, "b"]

    @classmethod
    def of(cls, mixed: Mixed, answer: int, length: int, writes: Tensor) -> "Entry":
        """An entry from the result of mixing; rows that write no token of an answer count as 0 nats and share 1."""
        uncapped, spent = (torch.where(writes, nats, 0.0).cpu() for nats in (mixed.uncapped, mixed.spent))
        share = torch.where(writes & mixed.acted, mixed.share, 1.0)
        return cls(answer, length, uncapped, spent, share.cpu(), (mixed.acted & writes).cpu(), writes.cpu())


@dataclass
class Ledger:
    """What the governor did, one entry per token of the answers. Tokens that assisted decoding rejects are removed.

    asked: KL(steered || base), what the plan would cost without a bound; inf where the steered distribution allows a
    token that the base forbids. spent: KL(mixture || base). share: weight t of the steered distribution in the mixture,
    from 0 (base) to 1 (steered, the governor did not act). Each is a list of tensors `[b]`; asked and spent in nats.
    """

    entries: list[Entry] = field(default_factory=list)

    @property
    def asked(self) -> list[Float[Tensor, "b"]]:
        return [entry.uncapped for entry in self.entries]

    @property
    def spent(self) -> list[Float[Tensor, "b"]]:
        return [entry.spent for entry in self.entries]

    @property
    def share(self) -> list[Float[Tensor, "b"]]:
        return [entry.share for entry in self.entries]

    def total(self) -> Float[Tensor, "answers"]:
        """KL divergence of each answer so far, nats: the rows of the first batch of answers, then those of the next."""
        answers: dict[int, Tensor] = {}
        for entry in self.entries:
            answers[entry.answer] = answers.get(entry.answer, 0.0) + entry.spent
        return torch.cat(list(answers.values())) if answers else torch.zeros(0, dtype=torch.float64)

    def held_back(self) -> float:
        """Fraction of the answers' tokens at which the governor changed the distribution; 0 without tokens."""
        written = sum(int(entry.writes.sum()) for entry in self.entries)
        return sum(int(entry.acted.sum()) for entry in self.entries) / written if written else 0.0

    def withdraw(self, answer: int, length: int) -> None:
        """Remove the entries of `answer` from position `length` on: assisted decoding rejected these tokens."""
        while self.entries and self.entries[-1].answer == answer and self.entries[-1].length >= length:
            self.entries.pop()


@dataclass(frozen=True, eq=False)
class Halves:
    """Logits of one forward pass over the doubled batch. steered, base: `[b k v]`, k the last positions. columns:
    length of the text at the end of the pass, with padding."""

    steered: Tensor
    base: Tensor
    columns: int


class Account:
    """Applies a governor's budgets to one batch and writes its ledger.

    sampled: True inside `model.generate`: a forward pass returns its steered logits unchanged, and `settle` mixes them
    after the logits processors have run. False: a forward pass returns logits mixed at temperature 1. assisted: True in
    assisted decoding, where one pass holds several candidate tokens, some of which are rejected.
    """

    def __init__(self, governor: Governor):
        self.governor = governor
        self.ledger = Ledger()
        self.sampled = self.assisted = False
        self.halves: Halves | None = None
        self._positions: Positions | None = None
        self._answer = 0

    def new_answer(self) -> None:
        """Begin a new batch of answers: every row has its full sequence budget."""
        self._answer += 1

    @contextmanager
    def sampling(self, sampled: bool = True) -> Iterator[None]:
        """Set `sampled` while the block runs (and `assisted` to False); both are restored afterwards."""
        before = self.sampled, self.assisted
        self.sampled, self.assisted = sampled, False
        try:
            yield
        finally:
            self.sampled, self.assisted = before
            self.halves = None

    def observe(self, positions: Positions) -> None:
        """Receive the positions of the next forward pass's tokens, needed to tell prompt tokens from answer tokens."""
        self._positions = positions

    def kept(self, columns: int) -> None:
        """Remove entries beyond the final length of the answers, `columns`: those tokens are not in the result."""
        self.ledger.withdraw(self._answer, columns)

    def combine(self, steered: Float[Tensor, "b k v"], base: Float[Tensor, "b k v"], columns: int) -> Tensor:
        """The logits that a pass over the doubled batch returns: steered inside `model.generate`, else mixed."""
        if self.sampled:
            self.halves = Halves(steered, base, columns)
            return steered
        return self._mixed(steered, base, columns)

    def settle(
        self, steered: Float[Tensor, "b v"], base: Float[Tensor, "b v"], length: int, writes: Bool[Tensor, "b"]
    ) -> Float[Tensor, "b v"]:
        """The mixed logits of the token after `length` columns; adds an entry to the ledger. writes: rows whose answer
        has not ended; only these spend their sequence budget."""
        self.ledger.withdraw(self._answer, length)
        budget = torch.minimum(self._per_token(steered), self._left(steered))
        mixed = govern(base, steered, torch.where(writes, budget, self._per_token(steered)))
        self.ledger.entries.append(Entry.of(mixed, self._answer, length, writes))
        return mixed.logits

    def _mixed(self, steered: Tensor, base: Tensor, columns: int) -> Tensor:
        """The mixed logits of a forward pass outside `model.generate`. Prompt positions are held to the per-token
        budget but do not count towards an answer's. With a sequence budget the answer's positions are mixed one after
        another, since each reduces what is left for the next; all others are mixed at once."""
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
        """True at positions whose logits decide a token of the answer: from the last token of the prompt on."""
        rows, columns = steered.shape[:2]
        if self._positions is None:
            return torch.ones(rows, columns, dtype=torch.bool, device=steered.device)
        index = self._positions.index[:rows, -columns:].to(steered.device)
        return (index >= 0) & (index >= self._positions.prompt_length[:rows, None].to(steered.device) - 1)

    def _per_token(self, like: Tensor) -> Float[Tensor, "n"]:
        return torch.full((len(like),), self.governor.per_token, dtype=torch.float64, device=like.device)

    def _left(self, like: Tensor) -> Float[Tensor, "b"]:
        """What is left of each row's sequence budget, nats; inf without one."""
        whole = torch.full_like(self._per_token(like), self.governor.sequence or 0.0)
        if self.governor.sequence is None:
            return whole.fill_(torch.inf)
        spent = [entry.spent for entry in self.ledger.entries if entry.answer == self._answer]
        return (whole - torch.stack(spent).sum(0).to(whole)).clamp(min=0) if spent else whole
