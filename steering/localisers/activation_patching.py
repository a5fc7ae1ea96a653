"""Activation patching: one unit's activation at a time taken from another run, and the answer measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.base import Localiser, heads, mlps
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.patching import Patch, activations, gathered, patched, whole_sites
from trimtab.steering.question import PASS_BUDGET, Question, question_batches
from trimtab.steering.ranking import Ranking

REFERENCES = ("corrupted", "zero")


@dataclass(frozen=True)
class ActivationPatching(Localiser):
    """denoising: `m(corrupted run, unit from the clean run) - m(corrupted run)`: does the unit bring the answer back?
    noising: `m(clean run) - m(clean run, unit from the corrupted run)`: does the answer need it?

    Source: Vig et al. 2020 (arXiv 2004.12265), Meng et al. 2022; best practice in Heimersheim and Nanda 2024
    (arXiv 2404.15255). The two are not symmetric: of two units that each suffice, neither is needed. The truth that
    gradient methods are measured against. Every token of the unit is patched, so the corrupted prompt must have the
    clean one's length.

    reference: what noising puts in place of the clean activation: `corrupted`, or `zero` (single-unit zero ablation,
    which needs no corrupted prompt). budget: tokens of a forward pass. `extra`: `clean` and `corrupted` metric,
    `[questions]`. Costs one forward pass per unit and question.
    """

    source: ClassVar[str] = "Vig et al. 2020, arXiv 2004.12265; Heimersheim & Nanda 2024, arXiv 2404.15255"
    meaning: ClassVar[str] = (
        "how much the metric rises through this unit's right activation (above 0: helps the answer)"
    )

    direction: Literal["denoising", "noising"] = "denoising"
    reference: Literal["corrupted", "zero"] = "corrupted"
    budget: int = PASS_BUDGET

    def __post_init__(self) -> None:
        if self.direction not in ("denoising", "noising") or self.reference not in REFERENCES:
            raise BadQuestion(f"direction {self.direction!r} with reference {self.reference!r}: say denoising or "
                              f"noising, and {' or '.join(REFERENCES)}")  # fmt: skip
        if self.direction == "denoising" and self.reference == "zero":
            raise BadQuestion("denoising starts from a corrupted run: a reference of zero is for noising only")

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        if self.reference == "corrupted" and questions[0].corrupted is None:
            raise BadQuestion("the questions have no corrupted prompt; give it, or noise with reference='zero'")
        units, device = (*heads(anatomy), *mlps(anatomy)), next(anatomy.model.parameters()).device
        found = [
            (batch, *self._effects(anatomy, batch, units)) for batch in question_batches(questions, device, self.budget)
        ]
        effects = gathered([(batch, effect) for batch, effect, _, _ in found], len(questions))
        sides = {
            name: gathered([(each[0], each[k][None]) for each in found], len(questions))[:, 0].astype(np.float32)
            for name, k in (("clean", 2), ("corrupted", 3))
            if found[0][k] is not None
        }
        return self.ranking(questions, units, effects, sides)

    def _effects(self, anatomy, batch, units):
        """`[units b]` effects, and the metric of the clean and (where there is one) of the corrupted run, `[b]`."""
        sites = whole_sites(units)
        clean, logits = activations(anatomy, batch, sites)
        right, wrong = batch.metric(logits), None
        other = {site: torch.zeros_like(h) for site, h in clean.items()} if self.reference == "zero" else None
        if batch.corrupted is not None and other is None:
            other, logits = activations(anatomy, batch, sites, "corrupted")
            wrong = batch.metric(logits)
        if self.direction == "denoising":
            patch = Patch(clean, "corrupted")
            return patched(anatomy, batch, units, patch, budget=self.budget) - wrong, right, wrong
        return right - patched(anatomy, batch, units, Patch(other), budget=self.budget), right, wrong
