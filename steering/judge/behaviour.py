"""Behaviour scorers: one number per written text, from words and lengths alone. Higher is more of the behaviour.

A scorer takes the text and how many tokens it has, and returns a float; word lists are arguments, nothing is read
from disk. These are crude on purpose: they need no judge model, and anyone can recompute them by hand.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from trimtab.steering.errors import SteeringError

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words(text: str) -> list[str]:
    """Lower-case words; letters of any script, apostrophes inside a word kept (as ')."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


class BehaviourScorer(ABC):
    """Abstract base; subclasses are frozen dataclasses."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """What the number is, with its unit."""

    @abstractmethod
    def __call__(self, text: str, tokens: int) -> float:
        """The score of one written text of `tokens` tokens."""


@dataclass(frozen=True)
class Lexicon(BehaviourScorer):
    """(positive words - negative words) per 100 words; 0 for a text without words.

    A word on both lists cancels. Words match whole and in lower case: give every form.
    """

    positive: Collection[str]
    negative: Collection[str] = ()
    name: str = "lexicon"

    def __post_init__(self) -> None:
        if not (self.positive or self.negative):
            raise SteeringError("a lexicon without words scores every text 0; give positive or negative words")

    @property
    def metric(self) -> str:
        return "positive minus negative words per 100 words"

    def __call__(self, text: str, tokens: int) -> float:
        spoken = words(text)
        positive, negative = (_hits(spoken, lexicon) for lexicon in self._lists)
        return 100 * (positive - negative) / len(spoken) if spoken else 0.0

    @cached_property
    def _lists(self) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(map(str.lower, self.positive)), frozenset(map(str.lower, self.negative))


@dataclass(frozen=True)
class Brevity(BehaviourScorer):
    """Minus the number of tokens written until the end of the answer or the cap, so briefer is higher.

    An answer that ran into the cap counts as the cap: give the decoding more tokens than brief answers need, or all
    score the same. The token that ends an answer counts as one.
    """

    name: str = "length"

    @property
    def metric(self) -> str:
        return "minus the answer's length in tokens (capped)"

    def __call__(self, text: str, tokens: int) -> float:
        return -float(tokens)


@dataclass(frozen=True)
class Language(BehaviourScorer):
    """(function words of the target - function words of the other languages) / both, from -1 to 1; 0 without any.

    Function words are frequent whatever the topic. Words that both sides have (`on`, `me`) count for neither.
    """

    target: Collection[str]
    other: Collection[str]
    name: str = "language"

    def __post_init__(self) -> None:
        if not all(self._lists):
            raise SteeringError("a language needs function words that the other languages do not have, on both sides")

    @property
    def metric(self) -> str:
        return "share of function words in the target language minus in others, -1 to 1"

    def __call__(self, text: str, tokens: int) -> float:
        spoken = words(text)
        ours, theirs = (_hits(spoken, lexicon) for lexicon in self._lists)
        return (ours - theirs) / (ours + theirs) if ours + theirs else 0.0

    @cached_property
    def _lists(self) -> tuple[frozenset[str], frozenset[str]]:
        target, other = frozenset(map(str.lower, self.target)), frozenset(map(str.lower, self.other))
        return target - other, other - target


BEHAVIOURS: dict[str, type[BehaviourScorer]] = {"lexicon": Lexicon, "length": Brevity, "language": Language}


def _hits(spoken: Sequence[str], lexicon: frozenset[str]) -> int:
    return sum(word in lexicon for word in spoken)
