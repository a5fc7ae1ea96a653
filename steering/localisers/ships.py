"""SHIPS: how far the next-token distribution, or a data set's representations, move when one head is ablated."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.steering.causal.head_scales import OPERATORS, ablated_heads, each_head_alone, passes
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question, per_question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import UnknownName
from trimtab.steering.localisers.base import Localiser, heads
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.divergence import kl_of_logprobs
from trimtab.steering.model.site import Site

FORMS = ("query", "dataset")


@dataclass(frozen=True)
class Ships(Localiser):
    """query: `KL(p(. | x) || p(. | x without h))` of the next token at the last prompt token, nats, mean over prompts.
    dataset: `sum over r of arccos sigma_r(U^T U_h)`, degrees, U and U_h the first `directions` left singular vectors of
    the prompts' last-token representations (after the final norm) with and without the head.

    Source: Zhou et al. 2025 (arXiv 2410.13708). The answers of the questions are not used. KL has no sign: a head that
    speaks against the behaviour ranks as high as one that makes it; set a signed ranking beside it. The unit is the
    query head, also where several share keys and values (the released code indexes key heads by query heads and works
    without sharing only). `sahara` grows a set of heads greedily by the dataset form.

    operator: see `causal/head_scales.py`; in the paper's data uniform attention found safety heads and zeroing did
    not. directions: how many singular vectors count (1 in the released code). budget: tokens of a forward pass. Costs
    one forward per head and question.
    """

    source: ClassVar[str] = "Zhou et al. 2025, arXiv 2410.13708 (SHIPS, Sahara)"
    meaning: ClassVar[str] = (
        "how far ablating the head moves the model's answer, whatever the direction (0: not at all)"
    )

    form: Literal["query", "dataset"] = "query"
    operator: Literal["uniform", "zero"] = "uniform"
    directions: int = 1
    budget: int = PASS_BUDGET

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownName("SHIPS form", self.form, FORMS)
        if self.operator not in OPERATORS:
            raise UnknownName("head ablation operator", self.operator, OPERATORS)

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        alone = each_head_alone(anatomy)
        if self.form == "dataset":
            return self._ranked(anatomy, questions, self._angles(anatomy, questions, alone))
        return self.ranked(anatomy, questions, heads(anatomy), partial(self._divergences, anatomy, alone), self.budget)

    def sahara(self, anatomy: Anatomy, questions: Sequence[Question], size: int) -> tuple[tuple[Site, float], ...]:
        """Greedy: `size` times, the head whose ablation beside those already taken turns the representations furthest,
        with that angle in degrees. Costs one pass over the questions per head and step."""
        self.check(questions)
        alone, units = each_head_alone(anatomy), heads(anatomy)
        ablated = torch.zeros_like(alone[0])
        picks: list[tuple[Site, float]] = []
        for _ in range(size):
            angles = self._angles(anatomy, questions, alone | ablated)
            angles[[units.index(site) for site, _ in picks]] = -np.inf
            best = int(angles.argmax())
            picks.append((units[best], float(angles[best])))
            ablated = ablated | alone[best]
        return tuple(picks)

    def _ranked(self, anatomy: Anatomy, questions: Sequence[Question], angles: np.ndarray) -> Ranking:
        return Ranking(
            method=self.method(),
            meaning=f"{self.meaning}; principal angle in degrees",
            units=heads(anatomy),
            values=angles.astype(np.float32),
            questions=len(questions),
            settings=asdict(self),
        )

    def _divergences(self, anatomy: Anatomy, sets: Bool[Tensor, "n l h"], batch: Batch) -> Float[Tensor, "n b"]:
        with torch.no_grad():
            base = self._last(anatomy, batch, torch.zeros_like(sets[:1]))[0].log_softmax(-1)
            divergences = []
            for part in passes(batch, sets, self.budget):
                other = self._last(anatomy, batch, part).log_softmax(-1)
                divergences.append(kl_of_logprobs(base, other))
        return torch.cat(divergences)

    def _last(self, anatomy: Anatomy, batch: Batch, sets: Bool[Tensor, "n l h"]) -> Float[Tensor, "n b v"]:
        rows = batch.tiled(len(sets))
        with ablated_heads(anatomy, sets.repeat_interleave(batch.rows, 0), self.operator):
            return rows.first(rows.logits(anatomy.model)).reshape(len(sets), batch.rows, -1)

    def _angles(self, anatomy: Anatomy, questions: Sequence[Question], sets: Bool[Tensor, "n l h"]) -> np.ndarray:
        base = self._states(anatomy, questions, torch.zeros_like(sets[:1]))[0]
        turned = self._states(anatomy, questions, sets)
        return np.array([angle(base, one, self.directions) for one in turned])

    def _states(self, anatomy: Anatomy, questions: Sequence[Question], sets: Bool[Tensor, "n l h"]) -> np.ndarray:
        """`[sets questions d_model]` last-token representations, in the questions' order."""

        def hidden(batch: Batch) -> Tensor:
            states = [self._hidden(anatomy, batch, part) for part in passes(batch, sets, self.budget)]
            return torch.cat(states).transpose(1, 2).flatten(0, 1)

        rows = per_question(questions, anatomy.device, hidden, self.budget)
        return rows.reshape(len(questions), len(sets), -1).swapaxes(0, 1)

    def _hidden(self, anatomy: Anatomy, batch: Batch, sets: Bool[Tensor, "n l h"]) -> Float[Tensor, "n b d"]:
        rows = batch.tiled(len(sets))
        with torch.no_grad(), ablated_heads(anatomy, sets.repeat_interleave(batch.rows, 0), self.operator):
            states = anatomy.base(input_ids=rows.clean, use_cache=False).last_hidden_state
        return states[torch.arange(rows.rows), rows.last].reshape(len(sets), batch.rows, -1)


def angle(base: Float[np.ndarray, "n d"], other: Float[np.ndarray, "n d"], directions: int = 1) -> float:
    """Sum of the principal angles, degrees, between the spans of the first left singular vectors of two matrices whose
    rows are the same prompts in the same order."""
    first, second = (np.linalg.svd(m, full_matrices=False)[0][:, :directions] for m in (base, other))
    cosines = np.linalg.svd(first.T @ second, compute_uv=False)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).sum())
