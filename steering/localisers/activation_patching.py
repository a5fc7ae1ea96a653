"""Activation patching: one unit's activation at a time taken from another run, and the answer measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.patching import Patch, activations, patched, whole_sites
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question, per_question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.base import POINTS, Localiser, units_at
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site

REFERENCES = ("corrupted", "zero")


@dataclass(frozen=True)
class ActivationPatching(Localiser):
    """denoising: `m(corrupted run, unit from the clean run) - m(corrupted run)`: does the unit bring the answer back?
    noising: `m(clean run) - m(clean run, unit from the corrupted run)`: does the answer need it?

    Source: Vig et al. 2020 (arXiv 2004.12265), Meng et al. 2022; best practice in Heimersheim and Nanda 2024
    (arXiv 2404.15255). The two are not symmetric: of two units that each suffice, neither is needed. It
    measures what gradient methods estimate. Every token of the unit is patched, so the corrupted prompt must have the
    clean one's length.

    reference: what noising puts in place of the clean activation: `corrupted`, or `zero` (single-unit zero ablation,
    which needs no corrupted prompt). points: what is ranked (`z`: heads). budget: tokens of a forward pass. `extra`:
    `clean` and `corrupted` metric, `[questions]`. Costs one forward pass per unit and question.
    """

    source: ClassVar[str] = "Vig et al. 2020, arXiv 2004.12265; Heimersheim & Nanda 2024, arXiv 2404.15255"
    meaning: ClassVar[str] = (
        "how much the metric rises through this unit's right activation (above 0: helps the answer)"
    )

    direction: Literal["denoising", "noising"] = "denoising"
    reference: Literal["corrupted", "zero"] = "corrupted"
    points: tuple[str, ...] = POINTS
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
        units = units_at(anatomy, self.points)
        numbers = per_question(questions, anatomy.device, partial(self._effects, anatomy, units), self.budget)
        metrics = dict(zip(("clean", "corrupted"), numbers[:, len(units) :].T, strict=False))
        return self.ranking(questions, units, numbers[:, : len(units)], metrics)

    def _effects(self, anatomy: Anatomy, units: Sequence[Site], batch: Batch) -> Float[Tensor, "n b"]:
        """The units' effects, the metric of the clean prompts and, where they are run, of the corrupted prompts."""
        sites = whole_sites(units)
        clean, logits = activations(anatomy, batch, sites)
        right = batch.metric(logits)[None]
        if self.reference == "zero":
            zeros = Patch({site: torch.zeros_like(h) for site, h in clean.items()})
            return torch.cat([right - patched(anatomy, batch, units, zeros, budget=self.budget), right])
        corrupted, logits = activations(anatomy, batch, sites, "corrupted")
        wrong = batch.metric(logits)[None]
        if self.direction == "noising":
            effects = right - patched(anatomy, batch, units, Patch(corrupted), budget=self.budget)
        else:
            effects = patched(anatomy, batch, units, Patch(clean, "corrupted"), budget=self.budget) - wrong
        return torch.cat([effects, right, wrong])
