"""Attention sinks: how much of each head's attention rests on the first token."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.localisers.base import Localiser, heads
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import Look, attending


@dataclass(frozen=True)
class AttentionSink(Localiser):
    """`D_h = mean over queries t > 0 of A_h[t, 0]`, on the clean prompts; 1 where a head looks at the first token only.

    Source: Gu et al. 2024 (arXiv 2410.10781) for the metric; Guo et al. 2024 (arXiv 2410.13835) for heads that are
    sinks (dormant) on one domain and active on another: rank the questions of each domain and subtract (`extra` holds
    `per_question`, so the difference has an interval). The first query is left out: it can look nowhere else. Zeroing
    a sink is not neutral: it removes a vector that the head writes at every token.

    budget: tokens of a forward pass. Costs one forward, with attention in the open.
    """

    source: ClassVar[str] = "Gu et al. 2024, arXiv 2410.10781; Guo et al. 2024, arXiv 2410.13835"
    meaning: ClassVar[str] = "share of attention on the first token, mean over later queries (0 to 1); not an effect"

    budget: int = PASS_BUDGET

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        return self.ranked(anatomy, questions, heads(anatomy), partial(_shares, anatomy), self.budget)


def _shares(anatomy: Anatomy, batch: Batch) -> Float[Tensor, "heads b"]:
    """Prompts of one token have no later query: their share is 1, as it is for that token."""
    columns = torch.arange(batch.clean.shape[1], device=batch.last.device)
    counted = ((columns > 0) & (columns <= batch.last[:, None])).float()  # [b s]
    by_block: dict[int, Tensor] = {}

    def look_at(look: Look) -> None:
        sums = (look.pattern[..., 0].float() * counted[:, None]).sum(-1)
        shares = sums / counted.sum(-1).clamp(min=1)[:, None]
        by_block[look.block] = torch.where(counted.sum(-1)[:, None] > 0, shares, 1.0)

    with torch.no_grad(), attending(anatomy, look_at):
        batch.logits(anatomy.model)
    return torch.cat([by_block[block] for block in range(anatomy.n_layers)], 1).T
