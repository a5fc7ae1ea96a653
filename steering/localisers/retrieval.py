"""Retrieval heads: heads that look at the very token that is to be copied from the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.base import Localiser, heads
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import Look, attending


@dataclass(frozen=True)
class Retrieval(Localiser):
    """Share of the answer's tokens for which the head's largest attention, at the position that writes the token, rests
    on a prompt token that is the same.

    Source: Wu et al. 2024 (arXiv 2404.15574), there while the model writes, here with the answer forced, so that no
    answer has to be judged; the first occurrence counts once (the released code counts repeats and can exceed 1). A
    high value does not show that the answer depends on the head; ablate it to find out.

    budget: tokens of a forward pass. Costs one forward, with attention in the open. Raises BadQuestion when an answer
    has no token that occurs in its prompt.
    """

    source: ClassVar[str] = "Wu et al. 2024, arXiv 2404.15574"
    meaning: ClassVar[str] = "share of answer tokens that the head looks at most while they are written (0 to 1)"

    budget: int = PASS_BUDGET

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        for q in questions:
            if not np.isin(q.target, q.clean.ids[: q.clean.prompt_length]).any():
                raise BadQuestion(
                    f"no token of the answer {q.target} occurs in its prompt, so there is nothing to copy"
                )
        return self.ranked(anatomy, questions, heads(anatomy), partial(_copied, anatomy), self.budget)


def _copied(anatomy: Anatomy, batch: Batch) -> Float[Tensor, "heads b"]:
    counts = torch.bincount(batch.row, minlength=batch.rows).float()
    by_block: dict[int, Tensor] = {}

    def look_at(look: Look) -> None:
        place = look.pattern[batch.row, :, batch.column].argmax(-1)  # [n heads]
        token = batch.clean[batch.row[:, None], place]
        prompted = place <= batch.last[batch.row][:, None]
        hit = ((token == batch.target[:, None]) & prompted).float()
        by_block[look.block] = torch.zeros(batch.rows, anatomy.n_heads, device=hit.device).index_add(0, batch.row, hit)

    with torch.no_grad(), attending(anatomy, look_at):
        batch.logits(anatomy.model)
    return torch.cat([by_block[block] / counts[:, None] for block in range(anatomy.n_layers)], 1).T
