"""Causal head gating: gates on all heads fitted to an answer, nudged towards 1 and towards 0."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.head_scales import scaled_heads, scaled_logprobs, scales_of_one
from trimtab.steering.causal.question import LOGPROB, Batch, Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers._gate_fit import Loss, Stage, fit_gates, start, usable
from trimtab.steering.localisers.base import Localiser, heads
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.frozen import frozen
from trimtab.steering.statistics import column_intervals

ROLES = ("facilitating", "interfering", "irrelevant", "inconsistent")
UNIT_MEANING = "1: needed even when all gates are nudged to 0; 0: not needed"


@dataclass(frozen=True)
class CausalHeadGating(Localiser):
    """`min over G of  -mean log P(y | x; G) - lambda mean_heads clip(logit G, 4)`, G in (0, 1) per query head.

    Source: Nam et al. 2025, arXiv 2505.13737, with the two-fit scheme: lambda = 0 from random gates, then lambda = +-
    `nudge` from there, giving G+ and G-. facilitation = G-, interference = 1 - G+, irrelevance = G+ (1 - G-); a head
    has a role in one seed when both gates say so: facilitating (hi, hi), interfering (lo, lo), irrelevant (hi, lo),
    and inconsistent (lo, hi), which the paper leaves outside. The released package calls interfering heads
    "irrelevant" (it reads the sign of lambda the other way round); `tests/originals/test_chg.py` shows it.
    The published loss clips theta on both sides. A gate that the first stage moves below -4 then gets no gradient from
    the upward nudge and is labelled interfering, whatever it does. Here theta is clipped only on the side that the
    nudge pushes towards. On a model whose heads' roles are known (`tests/heads/test_localisers_on_truth.py`), heads
    that do nothing are labelled interfering with the published clip and irrelevant with this one.

    The fit of a seed fails when its lambda = 0 stage ends more than `slack` nats above the model's own loss (all gates
    open). Its gates are reported (`fitted` is 0 for it), but labels, frequencies and values use the other seeds only;
    when all seeds fail, they use all, and `fitted` is 0 everywhere. The label is the role most seeds gave; roles differ
    between seeds, so `extra` holds every seed's gates (`g0`, `g_plus`, `g_minus`, `[seeds n]`), each role's frequency
    over seeds (`frequency`, `[4 n]` in the order of ROLES, 1: in every seed) and the losses (`nll`, `[3 steps seeds]`).
    The gradient that the nudge gives to one head is lambda over the number of heads (`nudge_per_head`, nats per unit of
    logit): to compare models of different size, compare this number and not lambda.

    seeds: fits, all in one batch. steps: updates of each of the three stages. questions_per_step: drawn anew for every
    seed and step. fit_rates, nudge_rates: Adam's rate, first to last update. Costs 3 x steps forwards and backwards of
    seeds x questions_per_step rows.
    """

    source: ClassVar[str] = "Nam et al. 2025, arXiv 2505.13737 (CHG)"
    meaning: ClassVar[str] = (
        f"facilitation: the gate that is left when gates are nudged to 0, mean over seeds ({UNIT_MEANING})"
    )

    seeds: int = 4
    steps: int = 60
    nudge: float = 0.1
    questions_per_step: int = 6
    fit_rates: tuple[float, float] = (0.5, 0.05)
    nudge_rates: tuple[float, float] = (0.5, 0.1)
    slack: float = 1.0
    seed: int = 0

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        loss = _Sampled(anatomy, questions, self.questions_per_step, self.seed).loss
        with frozen(anatomy.model):
            shared, first = self._fit(start(self._shape(anatomy), self.seed), loss, anatomy, None)
            plus, second = self._fit(shared, loss, anatomy, self.nudge)
            minus, third = self._fit(shared, loss, anatomy, -self.nudge)
        fitted = {"g0": _gates(shared), "g_plus": _gates(plus), "g_minus": _gates(minus)}
        fits = self._usable(anatomy, questions, first)
        return self._ranking(
            anatomy, questions, fitted, {"nll": torch.stack([first, second, third]).cpu().numpy(), **fits}
        )

    def contrast(
        self, anatomy: Anatomy, retain: Sequence[Question], forget: Sequence[Question], nudge: float
    ) -> Ranking:
        """Contrastive CHG: one fit of gates that keep the answers of `retain` and lose those of `forget`.

        `min over G of  mean max(log P(y_F | x_F; G) - log P(y_R | x_R; G), -5) - nudge mean_heads clip(logit G, 4)`,
        row i of one matched with row i of the other. nudge has no default: the paper's text says it is positive, its
        appendix says -0.1. Values are the mean gates over seeds: 0 where a head serves what is to be forgotten.
        """
        self.check(retain)
        self.check(forget)
        if len(retain) != len(forget):
            raise BadQuestion(f"{len(retain)} questions to retain and {len(forget)} to forget; each needs its partner")
        loss = self._contrast_loss(anatomy, retain, forget)
        with frozen(anatomy.model):
            theta, trace = self._fit(start(self._shape(anatomy), self.seed), loss, anatomy, nudge, self.fit_rates)
        gates = _gates(theta)
        low, high = column_intervals(gates)
        return Ranking(
            method=self.method(),
            meaning="contrastive gate, mean over seeds (0: serves only what is to be forgotten, 1: is kept)",
            units=heads(anatomy),
            values=gates.mean(0),
            low=low,
            high=high,
            extra={"gates": gates, "loss": trace.cpu().numpy()},
            questions=len(retain),
            settings={**asdict(self), "nudge": nudge},
        )

    def _contrast_loss(self, anatomy: Anatomy, retain: Sequence[Question], forget: Sequence[Question]) -> Loss:
        retained, lost = (_Sampled(anatomy, side, self.questions_per_step, self.seed) for side in (retain, forget))

        def loss(gates: Tensor, step: int) -> Tensor:
            return (retained.nll(gates, step) - lost.nll(gates, step)).clamp(min=-5).mean(1)

        return loss

    def _shape(self, anatomy: Anatomy) -> tuple[int, int, int]:
        return self.seeds, anatomy.n_layers, anatomy.n_heads

    def _fit(
        self, theta: Tensor, loss: Loss, anatomy: Anatomy, nudge: float | None, rates: tuple[float, float] | None = None
    ) -> tuple[Tensor, Tensor]:
        device = anatomy.device
        stage_rates = rates or (self.fit_rates if nudge is None else self.nudge_rates)
        return fit_gates(theta.to(device), loss, Stage(self.steps, stage_rates, nudge or 0.0))

    def _usable(self, anatomy: Anatomy, questions: Sequence[Question], trace: Tensor) -> dict[str, np.ndarray]:
        """`fitted`: `[seeds]`, 1 where the fit succeeded, else 0. `open_nll`: the model's own loss, all gates at 1."""
        own = -scaled_logprobs(anatomy, scales_of_one(anatomy), questions).mean()
        ends = trace[-10:].mean(0).cpu().numpy()
        return {"fitted": (ends <= own + self.slack).astype(np.float32), "open_nll": np.float32(own)}

    def _ranking(
        self,
        anatomy: Anatomy,
        questions: Sequence[Question],
        gates: dict[str, np.ndarray],
        fits: dict[str, np.ndarray],
    ) -> Ranking:
        used = usable(fits["fitted"])
        plus, minus = gates["g_plus"][used], gates["g_minus"][used]
        labels = roles(plus, minus)
        frequency = np.stack([(labels == k).mean(0) for k in range(len(ROLES))]).astype(np.float32)
        low, high = column_intervals(minus)
        extra = {
            **gates,
            **fits,
            "interference": 1 - plus.mean(0),
            "irrelevance": (plus * (1 - minus)).mean(0),
            "frequency": frequency,
            "nudge_per_head": np.float32(self.nudge / labels.shape[1]),
        }
        return Ranking(
            method=self.method(),
            meaning=f"{self.meaning}; loss: minus {LOGPROB}",
            units=heads(anatomy),
            values=minus.mean(0),
            low=low,
            high=high,
            labels=tuple(ROLES[k] for k in frequency.argmax(0)),
            extra=extra,
            questions=len(questions),
            settings=asdict(self),
        )


def roles(g_plus: np.ndarray, g_minus: np.ndarray) -> np.ndarray:
    """Index into ROLES for every gate pair, any shape: a gate is high from 0.5 on."""
    plus, minus = g_plus >= 0.5, g_minus >= 0.5
    return np.where(plus & minus, 0, np.where(~plus & ~minus, 1, np.where(plus, 2, 3)))


def _gates(theta: Float[Tensor, "seeds layers heads"]) -> np.ndarray:
    return torch.sigmoid(theta).flatten(1).cpu().numpy()


class _Sampled:
    """The loss on a random sample of the questions, drawn for each step and each seed. With `each` or fewer questions,
    every step uses all of them."""

    def __init__(self, anatomy: Anatomy, questions: Sequence[Question], each: int, seed: int):
        self._anatomy, self._questions, self._seed = anatomy, questions, seed
        self._each = min(each, len(questions))
        self._device = anatomy.device

    def loss(self, gates: Float[Tensor, "seeds layers heads"], step: int) -> Float[Tensor, "seeds"]:
        return self.nll(gates, step).mean(1)

    def nll(self, gates: Float[Tensor, "seeds layers heads"], step: int) -> Float[Tensor, "seeds each"]:
        numbers = [int(i) for k in range(len(gates)) for i in self._drawn(step, k)]
        batch = Batch.of(self._questions, numbers, self._device)
        with scaled_heads(self._anatomy, gates.repeat_interleave(self._each, 0)):
            return -batch.logprob(batch.logits(self._anatomy.model)).reshape(len(gates), self._each)

    def _drawn(self, step: int, seed: int) -> np.ndarray:
        if self._each == len(self._questions):
            return np.arange(self._each)
        return np.random.default_rng([self._seed + seed, step]).choice(len(self._questions), self._each, replace=False)
