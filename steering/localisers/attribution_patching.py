"""Attribution patching (AtP): the first-order estimate of activation patching, for all units at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from trimtab.steering.causal.gradients import estimates
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.base import POINTS, Localiser, units_at
from trimtab.steering.model.anatomy import Anatomy


@dataclass(frozen=True)
class AttributionPatching(Localiser):
    """`I(n) = sum over tokens of (n(clean) - n(corrupted)) . dm/dn`, the slope taken on the corrupted run (denoising)
    or on the clean one (noising).

    Source: Nanda 2023; Kramar et al. 2024 (arXiv 2403.00745), equations 4 and 5. Exact when the metric is linear in the
    unit; misses units behind a saturated softmax or whose direct and indirect effects cancel (see atp_star, relp).
    `extra` holds `per_question`; signs are kept, as cancellation over questions is part of a mean effect.

    points: what is ranked (`z`: heads). budget: tokens of a forward pass. Costs two forwards and one backward in all.
    """

    source: ClassVar[str] = "Kramar et al. 2024, arXiv 2403.00745 (AtP)"
    meaning: ClassVar[str] = "estimate of activation patching: how much the metric rises with the right activation"
    needs: ClassVar[tuple[str, ...]] = ("corrupted",)

    direction: Literal["denoising", "noising"] = "denoising"
    points: tuple[str, ...] = POINTS
    budget: int = PASS_BUDGET

    def __post_init__(self) -> None:
        if self.direction not in ("denoising", "noising"):
            raise BadQuestion(f"direction is {self.direction!r}: say denoising or noising")

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        units = units_at(anatomy, self.points)
        side: Literal["clean", "corrupted"] = "corrupted" if self.direction == "denoising" else "clean"

        def effects(batch: Batch) -> Tensor:
            return estimates(anatomy, batch, units, side)

        return self.ranked(anatomy, questions, units, effects, self.budget)
