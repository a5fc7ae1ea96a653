"""Span: which tokens of a text a plan acts on, or which are read. Counted in real tokens of each row, without padding.

A token's index is its place among the row's real tokens from the start of the text, whatever the batch, the side of the
padding, the cache or the chunks. Counting positions per forward pass would not do: with a KV cache each decoding step
is a forward pass of one token, so "from position 20 on" would never begin.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trimtab.steering.errors import BadSpan, UnknownName

PLAIN = ("all", "prompt", "generated", "answer", "last")
COUNTED = ("first", "after")
DIGITS = 9  # of a count; more do not fit every tensor


@dataclass(frozen=True)
class Positions:
    """Where the tokens of one forward pass of `b` rows and `s` columns stand in their texts.

    index: `[b s]`, place among the row's real tokens from 0; -1 marks padding.
    prompt_length: `[b]`, number of real tokens in each row's prompt; `[b s]` in a packed pass, where each token says
    how long the prompt of its own text is.
    """

    index: Int[Tensor, "b s"]
    prompt_length: Int[Tensor, "b"] | Int[Tensor, "b s"]


@dataclass(frozen=True)
class Span:
    """Which tokens of a text. kind: one of the words below. count: n of `first:n` and `after:n`, 0 for the others.

    all       every real token
    prompt    tokens of the prompt
    generated tokens after the prompt (written by the model, or a completion that is scored)
    answer    the last prompt token and all generated ones: the positions whose outputs write the answer
    last      the last prompt token only
    first:n   the first n real tokens of the row; after:n   all but those
    """

    kind: str = "all"
    count: int = 0

    def __post_init__(self) -> None:
        if self.kind not in (*PLAIN, *COUNTED):
            raise UnknownName("span", self.kind, (*PLAIN, "first:n", "after:n"))
        if self.count and self.kind in PLAIN:
            raise BadSpan(f"span '{self.kind}' takes no count, it was given {self.count}; only first:n and after:n do")
        if self.count < 0 or (self.kind == "first" and self.count == 0):
            raise BadSpan(f"span '{self}' selects nothing or counts backwards; give {self.kind}:n with n >= 1")

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}" if self.kind in COUNTED else self.kind

    @property
    def ends_with_prompt(self) -> bool:
        """True when only tokens of the prompt belong to it, so that how much of a text is prompt decides everything."""
        return self.kind in ("prompt", "last")

    @classmethod
    def parse(cls, text: "str | Span") -> "Span":
        """A Span from `all`, `prompt`, `generated`, `answer`, `last`, `first:n` or `after:n`; a Span stays as it is.

        Raises UnknownName for another word, BadSpan for a count that is missing, too large or not allowed.
        """
        if isinstance(text, Span):
            return text
        kind, colon, count = str(text).partition(":")
        if kind in COUNTED and not count.isdecimal():
            raise BadSpan(f"span '{text}' needs a count of tokens, for example {kind}:8")
        if len(count) > DIGITS:
            raise BadSpan(f"span '{kind}:{count[:DIGITS]}...' counts more tokens than any text has")
        if kind not in (*PLAIN, *COUNTED):
            raise UnknownName("span", str(text), (*PLAIN, "first:n", "after:n"))
        if kind in PLAIN and colon:
            raise BadSpan(f"span '{text}': {kind} takes no count; only first:n and after:n do")
        return cls(kind, int(count) if count else 0)

    def mask(self, positions: Positions) -> Bool[Tensor, "b s"]:
        """`[b s]` bool, True where a token belongs to the span; False for padding."""
        index, prompt = positions.index, positions.prompt_length
        if prompt.ndim == 1:
            prompt = prompt[:, None]
        inside = {
            "all": lambda: torch.ones_like(index, dtype=torch.bool),
            "prompt": lambda: index < prompt,
            "generated": lambda: index >= prompt,
            "answer": lambda: index >= prompt - 1,
            "last": lambda: index == prompt - 1,
            "first": lambda: index < self.count,
            "after": lambda: index >= self.count,
        }[self.kind]()
        return inside & (index >= 0)


ALL = Span("all")
PROMPT = Span("prompt")
GENERATED = Span("generated")
ANSWER = Span("answer")
LAST = Span("last")
