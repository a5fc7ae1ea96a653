"""Average indirect effect: each head's mean output over clean prompts put into corrupted ones (function vectors)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.patching import Patch, activations, patched, whole_sites
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question, per_question, question_batches
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import UnknownName
from trimtab.steering.localisers.base import Localiser, heads
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site

MEASURES = ("probability", "metric")


@dataclass(frozen=True)
class IndirectEffect(Localiser):
    """`AIE(h) = mean over questions of P(y | corrupted, z_h := mean z_h of clean prompts) - P(y | corrupted)`, replaced
    at the last prompt token only.

    Source: Todd et al. 2024 (arXiv 2310.15213), which corrupts few-shot prompts by shuffling their labels and takes the
    probability of the answer's first token. Special case: for one question it is denoising at the last token.

    measure: `probability` of the first answer token, or the `metric` in nats. `extra`: `mean_output`, each head's mean,
    `[n d_head]`, of which function vectors are made. budget: tokens of a forward pass. Costs one forward per head and
    question.
    """

    source: ClassVar[str] = "Todd et al. 2024, arXiv 2310.15213 (AIE)"
    meaning: ClassVar[str] = "rise of the right answer through the head's mean clean output (above 0: carries the task)"
    needs: ClassVar[tuple[str, ...]] = ("corrupted",)

    measure: Literal["probability", "metric"] = "probability"
    budget: int = PASS_BUDGET

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise UnknownName("measure", self.measure, MEASURES)

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        units = heads(anatomy)
        means = mean_outputs(anatomy, questions, self.budget)
        effects = per_question(questions, anatomy.device, partial(self._effects, anatomy, means), self.budget)
        outputs = torch.stack([mean[0, 0] for mean in means.values()]).reshape(len(units), -1)
        return self.ranking(questions, units, effects, {"mean_output": outputs.cpu().numpy()})

    def _effects(self, anatomy: Anatomy, means: Mapping[Site, Tensor], batch: Batch) -> Float[Tensor, "heads b"]:
        measure = probability if self.measure == "probability" else Batch.metric
        _, logits = activations(anatomy, batch, (), "corrupted")
        patch = Patch({site: h.expand(batch.rows, 1, -1) for site, h in means.items()}, "corrupted", last_only=True)
        return patched(anatomy, batch, heads(anatomy), patch, measure, self.budget) - measure(batch, logits)


def mean_outputs(anatomy: Anatomy, questions: Sequence[Question], budget: int = PASS_BUDGET) -> dict[Site, Tensor]:
    """Mean z of all heads at the last token of the clean prompts, `[1 1 n_heads * d_head]` float32 by block's site."""
    sites, device = whole_sites(heads(anatomy)), anatomy.device
    sums = {site: torch.zeros(1, 1, anatomy.width(site), device=device) for site in sites}
    for batch in question_batches(questions, device, budget):
        outputs, _ = activations(anatomy, batch, sites)
        rows = torch.arange(batch.rows, device=device)
        for site in sites:
            sums[site] += outputs[site][rows, batch.last].float().sum(0)
    return {site: total / len(questions) for site, total in sums.items()}


def probability(batch: Batch, logits: Tensor) -> Tensor:
    """Probability of the answer's first token, per row."""
    first = batch.first(logits)
    return first.softmax(-1).gather(-1, batch.target[: batch.rows, None])[:, 0]
