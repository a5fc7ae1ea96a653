"""RelP: attribution patching with relevance in place of gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trimtab.steering.causal.gradients import estimates
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.causal.relevance import relevance_rules
from trimtab.steering.localisers.base import POINTS, Localiser, units_at
from trimtab.steering.model.anatomy import Anatomy


@dataclass(frozen=True)
class RelP(Localiser):
    """`c(n) = sum over tokens of (n(clean) - n(corrupted)) . rho(n)`, rho the backward signal of the corrupted run
    under relevance rules (see steering/causal/relevance.py).

    Source: Jafari et al. 2025 (RelP, repository FarnoushRJ/RelP). Its defaults are the rules norm, activation and half;
    in its README and demo the activation rule is chosen too late and never acts, here a rule that does not act is an
    error. Special case: without rules it is attribution_patching.

    rules: of norm, activation, half, attention. points: what is ranked (`z`: heads). budget: tokens of a forward pass.
    Costs two forwards and one backward in all, like attribution patching.
    """

    source: ClassVar[str] = "Jafari et al. 2025 (RelP)"
    meaning: ClassVar[str] = "relevance estimate of denoising: how much the metric rises with the clean activation"
    needs: ClassVar[tuple[str, ...]] = ("corrupted",)

    rules: tuple[str, ...] = ("norm", "activation", "half")
    points: tuple[str, ...] = POINTS
    budget: int = PASS_BUDGET

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        units = units_at(anatomy, self.points)

        def effects(batch: Batch) -> Tensor:
            return estimates(anatomy, batch, units, surgery=relevance_rules(anatomy, self.rules))

        return self.ranked(anatomy, questions, units, effects, self.budget)
