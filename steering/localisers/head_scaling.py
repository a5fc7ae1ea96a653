"""Head scaling: one head's output turned up or down at every token, and the answer measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.head_scales import each_head_alone, passes, scaled_heads, scales_of_one
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question, per_question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.base import Localiser, heads
from trimtab.steering.model.anatomy import Anatomy


@dataclass(frozen=True)
class HeadScaling(Localiser):
    """`m(z_h times f) - m`, for every head and factor; the value is that of the first factor.

    Source: Yu, Merullo and Pavlick 2023 (arXiv 2310.15910), who scale a head's values (the same, as its output is
    linear in them) to turn memorised answers into those of the prompt. Finds heads whose plain strength can be used to
    steer; factor 0 is zero ablation with the sign turned round. `extra` holds every factor's mean (`factors`,
    `effects`, `[factors n]`).

    factors: what z is multiplied by. budget: tokens of a forward pass. Costs one forward per head, factor and question.
    """

    source: ClassVar[str] = "Yu et al. 2023, arXiv 2310.15910"
    meaning: ClassVar[str] = "rise of the metric when the head's output is multiplied by the first factor"

    factors: tuple[float, ...] = (2.0, 0.5)
    budget: int = PASS_BUDGET

    def __post_init__(self) -> None:
        if not self.factors or 1.0 in self.factors:
            raise BadQuestion(f"factors {self.factors}: give at least one, and not 1, which changes nothing")

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        effects = [
            per_question(questions, anatomy.device, partial(self._effects, anatomy, factor), self.budget)
            for factor in self.factors
        ]
        extra = {"factors": np.array(self.factors), "effects": np.stack([e.mean(0) for e in effects])}
        return self.ranking(questions, heads(anatomy), effects[0], extra)

    def _effects(self, anatomy: Anatomy, factor: float, batch: Batch) -> Float[Tensor, "heads b"]:
        scales, effects = scales_of_one(anatomy) + (factor - 1) * each_head_alone(anatomy), []
        with torch.no_grad():
            base = batch.metric(batch.logits(anatomy.model))
            for part in passes(batch, scales, self.budget):
                rows = batch.tiled(len(part))
                with scaled_heads(anatomy, part.repeat_interleave(batch.rows, 0)):
                    effects.append(rows.metric(rows.logits(anatomy.model)).reshape(len(part), -1) - base)
        return torch.cat(effects)
