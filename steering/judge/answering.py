"""Answering: whether a plan that shortens answers keeps them right.

Conciseness after ASC ("Activation-Steered Compression", arXiv:2507.04742) is worth something only when accuracy is
kept, and only beside the two cheap ways to the same length: asking for it in words, and cutting the answer off.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel

from trimtab.steering.judge.verdict import Answering, AnsweringPoint
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.progress import Progress, silent
from trimtab.steering.running.writing import Decoding, generate
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap, mean_interval, paired_difference, share_interval

FEWEST = 2  # questions that the model answers, for an interval to exist
_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS.split())}

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, eq=False)
class ExamQuestion:
    """A question with its right answer. requesting: the question with the words that request the behaviour (None:
    there are none)."""

    question: Tokens
    answer: str
    requesting: Tokens | None = None


@dataclass(frozen=True)
class AnsweringSettings:
    """questions: the first of those given. tokens: of an answer at most. factors: of the plan's strength."""

    questions: int = 60
    tokens: int = 64
    factors: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True, eq=False)
class Examiner:
    """Puts questions to the model and marks its greedy answers. decode: token ids to text."""

    model: PreTrainedModel
    decode: Decode
    settings: AnsweringSettings = AnsweringSettings()
    bootstrap: Bootstrap = BOOTSTRAP

    def answering(self, exam: Sequence[ExamQuestion], plan: SteeringPlan, progress: Progress = silent) -> Answering:
        """Tokens against accuracy, on the questions that the unsteered model answers rightly: they alone can be lost.

        Fewer than two such questions give no interval, and the result then has no points.
        """
        how, total = self.settings, len(self.settings.factors) + 2
        questions = distinct(exam)[: how.questions]
        progress("questions", 0, total)
        base = self.written([one.question for one in questions])
        able = [k for k, one in enumerate(questions) if self._right(base[k], one)]
        sheet = _Sheet(self, [questions[k] for k in able], [base[k] for k in able])
        points = sheet.points(plan, progress) if len(able) >= FEWEST else []
        progress("questions", total, total)
        length = float(np.mean([len(ids) for ids in sheet.base])) if able else 0.0
        return Answering(len(questions), len(able), how.tokens, length, tuple(points))

    def written(self, prompts: Sequence[Tokens], plan: SteeringPlan | None = None) -> list[list[int]]:
        """Token ids of greedy answers."""
        return generate(self.model, prompts, plan, Decoding(self.settings.tokens, temperature=0.0))

    def _right(self, ids: Sequence[int], one: ExamQuestion) -> bool:
        return holds(self.decode(ids), one.answer)

    def marks(self, written: Sequence[Sequence[int]], exam: Sequence[ExamQuestion]) -> Float[np.ndarray, "n"]:
        """1.0 for each answer that is right, 0.0 for the others."""
        return np.array([self._right(ids, one) for ids, one in zip(written, exam, strict=True)], np.float64)


def distinct(exam: Sequence[ExamQuestion]) -> list[ExamQuestion]:
    """Every question once: a repeated one would count as two independent ones."""
    return list({one.question.ids.tobytes(): one for one in reversed(exam)}.values())[::-1]


@dataclass(frozen=True, eq=False)
class _Sheet:
    """The questions that the model can answer, and its own answers to them."""

    examiner: Examiner
    exam: Sequence[ExamQuestion]
    base: Sequence[Sequence[int]]

    def points(self, plan: SteeringPlan, progress: Progress) -> list[AnsweringPoint]:
        """The plan at every factor of its strength, then the words that request the behaviour, if there are any."""
        factors, points = self.examiner.settings.factors, list[AnsweringPoint]()
        for done, factor in enumerate(factors, 1):
            progress("questions", done, len(factors) + 2)
            answers = self.examiner.written([one.question for one in self.exam], plan.scaled(factor))
            points.append(self.point(f"plan, {factor:g} × its strength", answers, factor))
        requests = [one.requesting for one in self.exam if one.requesting is not None]
        if len(requests) == len(self.exam):
            points.append(self.point("system prompt", self.examiner.written(requests)))
        return points

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
            kept=share_interval(self.examiner.marks(written, self.exam), how.level),
            cut=share_interval(self.examiner.marks(cut, self.exam), how.level),
            factor=factor,
        )


def holds(text: str, answer: str) -> bool:
    """Whether the answer stands in the text as whole words; number words are read as numbers, case does not count."""
    return f" {_normal(answer)} " in f" {_normal(text)} "


def _normal(text: str) -> str:
    words = re.findall(r"[^\W\d_]+|\d+(?:[.,]\d+)*", text.lower())
    return " ".join(_NUMBERS.get(word, word.replace(",", "")) for word in words)
