"""The Gate contract: *when* a move acts, and how far. A factor per row and token multiplies the strength.

0 is closed and leaves the token as it is to the bit; 1 is open. A gate sees the activations of the **clean** prompt,
read in a pass of their own before anything is steered: its decision depends neither on the plan nor on which block
it acts at, so any block may be read. Every row of a batch decides for itself. Gates are frozen; what must last through
an answer is kept in `GateInput.memory`, which belongs to the session.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.steering.errors import BadGate
from trimtab.steering.model.site import Site

POOLS = ("last", "mean")
HOLDS = ("answer", "token")


@dataclass(frozen=True)
class Reading:
    """What is read of the clean prompt: at `site`, of the last prompt token or the mean over the prompt's tokens."""

    site: Site
    pool: str = "last"

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise BadGate(f"a gate reads the prompt's {' or '.join(POOLS)}, not '{self.pool}'")


class History:
    """What a gate decided at every column of the texts so far, `[b columns]`. It follows beams, and forgets columns
    that were taken back (rejected candidates), because it is asked by column."""

    def __init__(self) -> None:
        self._start, self._states = 0, torch.zeros(0, 0, dtype=torch.bool)

    def before(self, column: int, start: Bool[Tensor, "b"]) -> Bool[Tensor, "b"]:
        """The decision at the column before; `start` where none is known."""
        place = column - 1 - self._start
        return self._states[:, place].to(start.device) if 0 <= place < self._states.shape[1] else start

    def keep(self, column: int, states: Bool[Tensor, "b s"]) -> None:
        """Decisions from this column on; those behind it no longer count."""
        place = column - self._start
        if not 0 < place <= self._states.shape[1]:
            self._start, self._states = column, states
        else:
            self._states = torch.cat([self._states[:, :place].to(states.device), states], dim=1)

    def reorder(self, rows: Int[Tensor, "b"]) -> None:
        """Row k goes on from what was row `rows[k]`."""
        if len(self._states):
            self._states = self._states[rows.to(self._states.device)]


@dataclass(frozen=True, eq=False)
class GateInput:
    """What a gate may look at in one forward pass.

    age: `[b s]`, tokens of the answer written before the one that this position writes: 0 at the last prompt token,
    negative before it. prompt: `[b d]` float32 per reading, of the clean prompt. stream: `[b s d]` float32 per site,
    of this pass. memory: what gates left for the next pass of the same text: a History, or what follows from the prompt
    alone. column: of this pass's first token, cached ones and padding counted.
    """

    age: Int[Tensor, "b s"]
    prompt: Mapping[Reading, Float[Tensor, "b d"]] = field(default_factory=dict)
    stream: Mapping[Site, Float[Tensor, "b s d"]] = field(default_factory=dict)
    memory: MutableMapping[object, Any] = field(default_factory=dict)
    column: int = 0


class Gate(ABC):
    """Abstract base; subclasses are frozen dataclasses, compared by identity, with float32 tensor fields."""

    @property
    @abstractmethod
    def reads(self) -> tuple[Reading, ...]:
        """What it needs of the clean prompt."""

    @property
    @abstractmethod
    def follows(self) -> tuple[Site, ...]:
        """Sites that it reads again at every generated token, as the steered model left them."""

    @property
    @abstractmethod
    def widths(self) -> tuple[tuple[Site, int], ...]:
        """How wide the vectors must be at the sites that it reads."""

    @abstractmethod
    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        """What the strength is multiplied by: 0 closed, 1 open."""


class Schedule(Gate):
    """A gate that reads no activation: its factor depends on how far the answer has come. Abstract."""

    @final
    @property
    def reads(self) -> tuple[Reading, ...]:
        return ()

    @final
    @property
    def follows(self) -> tuple[Site, ...]:
        return ()

    @final
    @property
    def widths(self) -> tuple[tuple[Site, int], ...]:
        return ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Scored(Gate):
    """Open where a score of what is read exceeds a threshold. Abstract: a subclass says what the score is.

    site (or its name), pool: what is read of the prompt. hold: "answer" decides once, on the prompt, for the whole
    answer; "token" decides on the prompt and again at every generated token, from that token's own activation. slack:
    with hold "token", an open gate closes only below `threshold - slack` (hysteresis). below: open under the threshold
    instead, the gate's negation (slack then reaches above). Raises BadGate for values that are none of these.
    """

    site: Site | str
    threshold: float
    pool: str = "last"
    hold: str = "answer"
    slack: float = 0.0
    below: bool = False

    def __post_init__(self) -> None:
        if self.hold not in HOLDS:
            raise BadGate(f"a gate holds for an {' or a '.join(HOLDS)}, not '{self.hold}'")
        if not self.slack >= 0:
            raise BadGate(f"slack is {self.slack}; an open gate closes at threshold - slack, so give 0 or more")
        if self.threshold != self.threshold:
            raise BadGate("the threshold is nan: the gate would never open; fit it on more prompts")
        object.__setattr__(self, "site", Site.parse(self.site))
        Reading(self.place, self.pool)

    @final
    @property
    def place(self) -> Site:
        """Where it reads, as a Site."""
        return Site.parse(self.site)

    @abstractmethod
    def score(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        """One number per vector; higher means more of what opens the gate."""

    @property
    @abstractmethod
    def width(self) -> int:
        """d, the width of the vectors it scores."""

    @property
    def reads(self) -> tuple[Reading, ...]:
        return (Reading(self.place, self.pool),)

    @property
    def follows(self) -> tuple[Site, ...]:
        return (self.place,) if self.hold == "token" else ()

    @property
    def widths(self) -> tuple[tuple[Site, int], ...]:
        return ((self.place, self.width),)

    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        on_prompt = self._margin(inputs.prompt[self.reads[0]]) > 0
        if self.hold == "answer":
            return on_prompt[:, None].expand(inputs.age.shape).float()
        return self._token_by_token(on_prompt, self._margin(inputs.stream[self.place]), inputs).float()

    def _margin(self, h: Tensor) -> Tensor:
        above = self.score(h) - self.threshold
        return -above if self.below else above

    def _token_by_token(self, on_prompt: Tensor, margin: Tensor, inputs: GateInput) -> Tensor:
        """In order: each token's decision depends on the one before, also of the pass before."""
        history = inputs.memory.setdefault(self, History())
        state = history.before(inputs.column, on_prompt)
        columns = []
        for k in range(margin.shape[1]):
            slack = torch.where(state, self.slack, 0.0)
            state = torch.where(inputs.age[:, k] > 0, margin[:, k] > -slack, on_prompt)
            columns.append(state)
        states = torch.stack(columns, dim=1)
        history.keep(inputs.column, states)
        return states


@dataclass(frozen=True, eq=False)
class Joined(Gate):
    """Two gates as one. Abstract: a subclass says how their factors join. Nest it for more."""

    first: Gate
    second: Gate

    @property
    def reads(self) -> tuple[Reading, ...]:
        return self.first.reads + self.second.reads

    @property
    def follows(self) -> tuple[Site, ...]:
        return self.first.follows + self.second.follows

    @property
    def widths(self) -> tuple[tuple[Site, int], ...]:
        return self.first.widths + self.second.widths


def check_vector(what: str, vector: Tensor) -> None:
    """Raises BadGate when a field is not one finite float32 vector that is not zero."""
    if not isinstance(vector, Tensor) or vector.dtype != torch.float32 or vector.ndim != 1:
        kind = f"{vector.dtype} {list(vector.shape)}" if isinstance(vector, Tensor) else type(vector).__name__
        raise BadGate(f"{what} is {kind}; a gate reads along one float32 vector [d]")
    if not bool(torch.isfinite(vector).all()) or not bool(vector.any()):
        raise BadGate(f"{what} is zero or not finite, so every prompt would score alike; fit it on other rows")
