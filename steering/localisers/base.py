"""The Localiser contract: questions in, a Ranking of units out. Fields of the dataclass are the hyper-parameters."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.question import Batch, Question, check_questions, metric_name, per_question, prompts_of
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.statistics import column_intervals

__all__ = ["POINTS", "Batch", "Localiser", "Question", "Ranking", "heads", "mlps", "units_at"]

POINTS = ("z", "mlp_out")  # what patching methods rank unless told otherwise: every head and every MLP


Effects = Callable[[Batch], Float[Tensor, "units b"]]  # of every unit, for each row of a batch


class Localiser(ABC):
    """Abstract base; subclasses are frozen dataclasses, one per file, whose docstring is the method's page: equation,
    source, assumptions, what it costs.

    source: where the method was published. meaning: what a value says, its sign and unit. needs: what every question
    must have beside a prompt and a target (`corrupted`, `wrong`).
    """

    source: ClassVar[str]
    meaning: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        """A value for every unit. Deterministic; the model is as it was afterwards. Raises BadQuestion when the
        questions lack what the method needs."""

    @classmethod
    def method(cls) -> str:
        """The localiser's name: that of its file."""
        return cls.__module__.rpartition(".")[2]

    def check(self, questions: Sequence[Question]) -> None:
        """Raises BadQuestion; see `check_questions`."""
        check_questions(questions, self.needs)

    def ranked(
        self, anatomy: Anatomy, questions: Sequence[Question], units: Sequence[Site], effects: Effects, budget: int
    ) -> Ranking:
        """`ranking` of what `effects` gives for every batch of the questions. budget: tokens of a batch."""
        return self.ranking(questions, units, per_question(questions, anatomy.device, effects, budget))

    def ranking(
        self,
        questions: Sequence[Question],
        units: Sequence[Site],
        per_question: np.ndarray,
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> Ranking:
        """A Ranking by the mean of `per_question` (`[questions n]`), with the bootstrap interval over
        questions, those on one prompt resampled together."""
        low, high = column_intervals(per_question, clusters=prompts_of(questions))
        return Ranking(
            method=self.method(),
            meaning=f"{self.meaning}; metric: {metric_name(questions)}",
            units=tuple(units),
            values=per_question.mean(0).astype(np.float32),
            low=low,
            high=high,
            extra={"per_question": per_question.astype(np.float32), **(extra or {})},
            questions=len(questions),
            settings=asdict(self),  # type: ignore[call-overload]
        )


def heads(anatomy: Anatomy) -> tuple[Site, ...]:
    """The sites of all query heads, block by block: `z.0.0`, `z.0.1`, ..."""
    return tuple(Site("z", block, head) for block in range(anatomy.n_layers) for head in range(anatomy.n_heads))


def mlps(anatomy: Anatomy) -> tuple[Site, ...]:
    """The sites of what every MLP adds to the residual stream: `mlp_out.0`, `mlp_out.1`, ..."""
    return tuple(Site("mlp_out", block) for block in range(anatomy.n_layers))


def units_at(anatomy: Anatomy, points: Sequence[str]) -> tuple[Site, ...]:
    """Every head for `z`, every block's site for another point (`mlp_out`, `attn_out`, `resid_post`, ...)."""
    return tuple(u for p in points for u in (heads(anatomy) if p == "z" else anatomy.sites([p])))
