"""Toggling: tests the roles of causal head gating on questions that the gates were not fitted on.

Heads are sorted by the score of one role. The gates of the first k are set to 0, and in a second run to 1; all other
gates keep each seed's fitted G+. `log P(answer | set to 0) - log P(answer | set to 1)` should fall below 0 for
facilitating heads, stay near 0 for irrelevant ones and rise above 0 for interfering ones, until all heads of the role
are among the first k (Nam et al. 2025, section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.head_scales import scaled_logprobs
from trimtab.steering.causal.question import PASS_BUDGET, Question, check_questions
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import BadRanking
from trimtab.steering.localisers._gate_fit import usable
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.statistics import column_intervals

SCORES = ("facilitation", "interference", "irrelevance")
EXPECTED = {"facilitation": "below 0", "interference": "above 0", "irrelevance": "0"}


@dataclass(frozen=True, eq=False)
class ToggleCurve:
    """The curve of one role. score: its name. sizes: how many heads were toggled. difference: `[sizes questions]`
    log-probability of the answer with the heads off minus with them on, nats per token, mean over seeds. counts:
    `[seeds]` heads with a score of 0.5 or more: beyond that size the curve says nothing about the role."""

    score: str
    sizes: tuple[int, ...]
    difference: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.difference.mean(1)

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high `[sizes]`: 95% bootstrap over questions."""
        return column_intervals(self.difference.T)


def toggle_curves(
    anatomy: Anatomy, ranking: Ranking, questions: Sequence[Question], sizes: Sequence[int], budget: int = PASS_BUDGET
) -> tuple[ToggleCurve, ...]:
    """One curve per role, on held-out questions, over the seeds that fitted. ranking: of causal head gating, with every
    seed's gates. budget: tokens of a forward pass. Raises BadRanking when the gates are missing or a size exceeds the
    heads."""
    check_questions(questions)
    plus, minus = _fitted(anatomy, ranking)
    if max(sizes) > plus[0].numel():
        raise BadRanking(f"{max(sizes)} heads cannot be toggled, the model has {plus[0].numel()}")
    scores = {"facilitation": minus, "interference": 1 - plus, "irrelevance": plus * (1 - minus)}
    curves = []
    for name in SCORES:
        gates = _toggled(scores[name], plus, sizes)
        logprobs = scaled_logprobs(anatomy, gates, questions, budget)
        off, on = logprobs.reshape(2, len(sizes), len(plus), len(questions))
        counts = (scores[name].flatten(1) >= 0.5).sum(1).cpu().numpy()
        curves.append(ToggleCurve(name, tuple(sizes), (off - on).mean(1), counts))
    return tuple(curves)


def _fitted(anatomy: Anatomy, ranking: Ranking) -> tuple[Tensor, Tensor]:
    if not {"g_plus", "g_minus"} <= ranking.extra.keys():
        raise BadRanking(f"toggling needs the gates of causal_head_gating; this ranking is by {ranking.method}")
    shape, device = (-1, anatomy.n_layers, anatomy.n_heads), anatomy.device
    plus, minus = (torch.from_numpy(np.array(ranking.extra[name])).reshape(shape) for name in ("g_plus", "g_minus"))
    used = usable(ranking.extra.get("fitted", np.ones(len(plus))))
    return plus[used].to(device), minus[used].to(device)


def _toggled(score: Tensor, plus: Tensor, sizes: Sequence[int]) -> Float[Tensor, "sets layers heads"]:
    """G+ with each seed's first k heads by the score set to 0, for every size and seed; then the same set to 1."""
    order = score.flatten(1).argsort(1, descending=True)
    sets = [torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, :k], True).reshape_as(plus) for k in sizes]
    off = torch.stack([plus.masked_fill(subset, 0.0) for subset in sets])
    on = torch.stack([plus.masked_fill(subset, 1.0) for subset in sets])
    return torch.cat([off, on]).flatten(0, 1)
