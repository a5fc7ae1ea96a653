"""One choice of an answer while it is written: draws its tokens, turns them into text, and ends at a stop string."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from trimtab.steering.running.writing import Decoding, Draw

LEAST = -9999.0  # log-probability of what cannot be drawn: JSON has no infinity
UNFINISHED = "\ufffd"  # what a tokenizer writes for a character whose last bytes are not there yet


@dataclass(frozen=True)
class TokenLogprob:
    """A written token with the log-probability (nats) that it was drawn with, and the likeliest tokens beside it."""

    text: str
    logprob: float
    tops: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """New text of one choice, and the tokens that were written since the last piece. finish: "stop" or "length" when
    the choice has ended, None before. failure: why there is no more of it."""

    choice: int
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Wanted:
    """How one choice is written. tops: likely tokens told beside each (None: no log-probabilities). ends: ids of tokens
    that end an answer. room: bytes of raw logits that it stores, to measure its nats by; of longer answers, none."""

    choice: int
    decoding: Decoding
    stops: tuple[str, ...]
    tops: int | None
    ends: frozenset[int]
    room: int = 0


@dataclass
class Choice:
    """tell: gets each Piece, in the thread that writes. ids: tokens written, without the one that ended it. nats: KL
    divergence from the unsteered model at each of them, once it is measured. acted: tokens at which the governor held
    back. logits: raw ones `[v]` before each token, where there is room. After it has ended, it ignores what comes."""

    tokenizer: PreTrainedTokenizerBase
    wanted: Wanted
    tell: Callable[[Piece], None]
    ids: list[int] = field(default_factory=list, init=False)
    text: str = ""
    finish: str | None = None
    nats: list[float] = field(default_factory=list)
    acted: int = 0
    logits: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = Draw(self.wanted.decoding, [self.wanted.decoding.seed])
        self._told = 0  # characters of the text that were told
        self._start = self._read = 0  # tokens before which the text is settled, and that it covers
        self._logprobs: list[TokenLogprob] = []
        self._lock = threading.Lock()

    # ---- as the writer of an engine's request

    def write(self, logits: Tensor) -> int | None:
        """The next token from raw logits `[v]`, None when the answer has ended."""
        before = len(self.ids)
        token = self.draw(self._draw.processors(None, logits[None])[0])  # type: ignore[arg-type]
        if len(self.ids) > before:
            self._store(logits)
        return token

    def _store(self, logits: Tensor) -> None:
        if len(self.ids) * logits.nbytes > self.wanted.room:
            self.logits.clear()
        else:
            self.logits.append(logits.clone())

    @property
    def logits_are_whole(self) -> bool:
        """Whether those of every token are there."""
        return len(self.logits) == len(self.ids)

    @property
    def processors(self) -> LogitsProcessorList:
        """What raw logits go through before a token is drawn."""
        return self._draw.processors

    def fail(self, reason: str) -> None:
        """No more comes."""
        with self._lock:
            if self.finish is None:
                self.finish = "error"
                self.tell(Piece(self.wanted.choice, finish="error", failure=reason))

    def close(self) -> None:
        """Nobody reads any more."""
        with self._lock:
            self.finish = self.finish or "closed"

    # ---- writing

    def draw(self, scores: Tensor) -> int | None:
        """The next token from processed logits `[v]`, None when the answer has ended."""
        with self._lock:
            if self.finish is not None:
                return None
            token = int(self._draw(scores[None])[0])
            if token in self.wanted.ends:
                self._finish("stop")
                return None
            self.ids.append(token)
            if self.wanted.tops is not None:
                self._logprobs.append(self._logprob(token, scores))
            self._extend()
            self._settle()
            return None if self.finish else token

    def _extend(self) -> None:
        """Text of the tokens so far: decoded from a little before the new one, because spaces depend on neighbours."""
        before = self._decoded(self.ids[self._start : self._read])
        after = self._decoded(self.ids[self._start :])
        if len(after) > len(before) and not after.endswith(UNFINISHED):
            self.text += after[len(before) :]
            self._start, self._read = self._read, len(self.ids)

    def _settle(self) -> None:
        """End at a stop string or at the limit; else tell the text that cannot be the beginning of a stop string."""
        places = [place for stop in self.wanted.stops if (place := self.text.find(stop)) >= 0]
        if places:
            self.text = self.text[: min(places)]
            self.finish = "stop"
            self._tell(len(self.text), "stop")
        elif len(self.ids) >= self.wanted.decoding.max_new_tokens:
            self._finish("length")
        else:
            self._tell(len(self.text) - held_back(self.text, self.wanted.stops))

    def _finish(self, finish: str) -> None:
        """End with all text told, characters whose last bytes never came included."""
        settled = self._decoded(self.ids[self._start : self._read])
        self.text += self._decoded(self.ids[self._start :])[len(settled) :]
        self.finish = finish
        self._tell(len(self.text), finish)

    def _tell(self, end: int, finish: str | None = None) -> None:
        if end > self._told or finish or self._logprobs:
            self.tell(Piece(self.wanted.choice, self.text[self._told : end], tuple(self._logprobs), finish))
            self._logprobs.clear()
            self._told = max(end, self._told)

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _logprob(self, token: int, scores: Tensor) -> TokenLogprob:
        logprobs = scores.float().log_softmax(-1)
        values, ids = torch.topk(logprobs, min(self.wanted.tops or 0, len(logprobs)))
        tops = zip(ids.tolist(), values.tolist(), strict=True)
        likely = tuple((self._word(k), max(value, LEAST)) for k, value in tops)
        return TokenLogprob(self._word(token), max(float(logprobs[token]), LEAST), likely)

    def _word(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    def pay(self, nats: float, acted: bool) -> None:
        """What the governor let the next token spend, and whether it held back."""
        if self.finish is None:
            self.nats.append(nats)
            self.acted += acted

    @property
    def words(self) -> list[str]:
        """The text of each token by itself."""
        return [self._word(token) for token in self.ids]


def held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of a text that may be the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
