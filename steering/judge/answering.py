"""Answering: what a plan that shortens answers does to their being right.

Conciseness after ASC ("Activation-Steered Compression", arXiv:2507.04742) is worth something only when accuracy is
kept, and only beside the two cheap ways to the same length: asking for it in words, and cutting the answer off.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from trimtab.steering.judge.verdict import Answering, AnsweringPoint
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.writing import Decoding, generate
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap, mean_interval, paired_difference, share_interval

FEWEST = 2  # questions that the model answers, for an interval to exist
_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS.split())}

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, eq=False)
class KnownAnswer:
    """A question with its right answer. asked: the question with the words that ask for the behaviour (None: there are
    none)."""

    question: Tokens
    answer: str
    asked: Tokens | None = None


@dataclass(frozen=True)
class AnsweringSettings:
    """questions: the first of those given. tokens: of an answer at most. factors: of the plan's strength."""

    questions: int = 60
    tokens: int = 64
    factors: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True, eq=False)
class Examiner:
    """Asks the model questions and marks its greedy answers. decode: token ids to text."""

    model: PreTrainedModel
    decode: Decode
    settings: AnsweringSettings = AnsweringSettings()
    bootstrap: Bootstrap = BOOTSTRAP

    def answering(
        self,
        known: Sequence[KnownAnswer],
        plan: SteeringPlan,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> Answering:
        """Tokens against accuracy, on the questions that the unsteered model answers rightly: they alone can be lost.

        Fewer than two such questions give no interval, and the result then has no points.
        """
        asked, how = distinct(known)[: self.settings.questions], self.settings
        progress("questions", 0, len(how.factors) + 2)
        base = self._written([one.question for one in asked])
        able = [k for k, one in enumerate(asked) if self._right(base[k], one)]
        kept, written = [asked[k] for k in able], [base[k] for k in able]
        points: list[AnsweringPoint] = []
        if len(kept) >= FEWEST:
            sheet = _Sheet(self, kept, written)
            for factor in how.factors:
                progress("questions", len(points) + 1, len(how.factors) + 2)
                answers = self._written([one.question for one in kept], plan.scaled(factor))
                points.append(sheet.point(f"plan, {factor:g} × its strength", answers, factor))
            prompts = [one.asked for one in kept if one.asked is not None]
            if len(prompts) == len(kept):
                points.append(sheet.point("system prompt", self._written(prompts)))
        progress("questions", len(how.factors) + 2, len(how.factors) + 2)
        length = float(np.mean([len(ids) for ids in written])) if written else 0.0
        return Answering(len(asked), len(kept), how.tokens, length, tuple(points))

    def _written(self, prompts: Sequence[Tokens], plan: SteeringPlan | None = None) -> list[list[int]]:
        return generate(self.model, prompts, plan, Decoding(self.settings.tokens, temperature=0.0))

    def _right(self, ids: Sequence[int], one: KnownAnswer) -> bool:
        return holds(self.decode(ids), one.answer)

    def marks(self, written: Sequence[Sequence[int]], known: Sequence[KnownAnswer]) -> np.ndarray:
        """`[n]` 1.0 for each answer that is right."""
        return np.array([self._right(ids, one) for ids, one in zip(written, known, strict=True)], np.float64)


def distinct(known: Sequence[KnownAnswer]) -> list[KnownAnswer]:
    """Every question once: a repeated one would count as two independent ones."""
    return list({one.question.ids.tobytes(): one for one in reversed(known)}.values())[::-1]


@dataclass(frozen=True, eq=False)
class _Sheet:
    """The questions that the model can answer, and its own answers to them."""

    examiner: Examiner
    known: Sequence[KnownAnswer]
    base: Sequence[Sequence[int]]

    def point(self, name: str, written: Sequence[Sequence[int]], factor: float | None = None) -> AnsweringPoint:
        """Another way of answering, beside the model's own answers cut to the same mean length. factor: of the plan's
        strength (None: it was asked in words)."""
        how, lengths = self.examiner.bootstrap, np.array([len(ids) for ids in written], np.float64)
        own = np.array([len(ids) for ids in self.base], np.float64)
        cut = [ids[: round(lengths.mean())] for ids in self.base]
        return AnsweringPoint(
            name=name,
            kind="system_prompt" if factor is None else "plan",
            tokens=mean_interval(lengths, how),
            saved=paired_difference(own, lengths, how),
            kept=share_interval(self.examiner.marks(written, self.known), how.level),
            cut=share_interval(self.examiner.marks(cut, self.known), how.level),
            factor=factor,
        )


def holds(text: str, answer: str) -> bool:
    """Whether the answer stands in the text as whole words; number words are read as numbers, case does not count."""
    return f" {_normal(answer)} " in f" {_normal(text)} "


def _normal(text: str) -> str:
    words = re.findall(r"[^\W\d_]+|\d+(?:[.,]\d+)*", text.lower())
    return " ".join(_NUMBERS.get(word, word.replace(",", "")) for word in words)
