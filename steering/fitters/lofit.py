"""Offsets of a few heads, the heads chosen by a scale that is trained first (LoFiT)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters._at_budget import CHOICES, chosen_heads, name_of_sites
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.learning.examples import Examples, texts_of
from trimtab.steering.learning.losses import preference
from trimtab.steering.learning.steered import base_logprobs, steered_logprobs
from trimtab.steering.learning.trainer import Objective, Training, train
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.base import Move
from trimtab.steering.moves.diagonal import Diagonal
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.padded_texts import completion_logprobs
from trimtab.steering.running.progress import Progress, silent

MakeMove = Callable[[Tensor], Move]


@dataclass(frozen=True)
class LoFiT(ModelFitter):
    """`z_h <- z_h + v_h` at the `heads` heads with the largest |A_h| in `z_h <- (1 + A_h) * z_h`, trained before

    Source: Yin, Ye and Durrett 2024, arXiv 2406.01563 (LoFiT). First the scales A of all heads are trained under the
    penalty `sparsity * sum |A|`, and only their norms kept; then the offsets v of the heads with the largest, from
    noise of 1e-3, without a penalty. The loss is that of DPO on the pairs with beta 0.5, as in the paper's TruthfulQA
    runs. Offsets are constants: they fold. Ours: rates are in root-mean-square coordinates of each block's heads, and
    the paper's 5 epochs of 8 become a number of steps. Strength 1 is as trained; it does not look at the budget.

    Special case: with all heads chosen the first stage is without effect.

    heads: how many. beta: of the preference. sparsity: of the first stage. scales, offsets: training of both stages.
    choice: `best`, by the scales, or `random`: the control, offsets trained at as many other heads.
    """

    acts_on_heads: ClassVar[bool] = True
    source: ClassVar[str] = "Yin, Ye and Durrett 2024, arXiv 2406.01563 (LoFiT)"

    heads: int = 16
    beta: float = 0.5
    sparsity: float = 5e-4
    choice: Literal["best", "random"] = "best"
    scales: Training = field(default_factory=lambda: Training(steps=30, rate=0.02, batch=8, last_rate=0.0))
    offsets: Training = field(default_factory=lambda: Training(steps=40, rate=0.02, batch=8, last_rate=0.0))

    def __post_init__(self) -> None:
        if self.heads < 1 or not self.beta > 0 or self.sparsity < 0 or self.choice not in CHOICES:
            raise SteeringError(
                f"lofit: {self.heads} heads by '{self.choice}', beta {self.beta:g} and sparsity {self.sparsity:g} "
                f"train nothing; give a positive number of heads, {' or '.join(CHOICES)}, a positive beta and no "
                f"negative penalty"
            )

    def fit(
        self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], progress: Progress = silent
    ) -> dict[str, SteeringPlan]:
        blocks = sorted({site.block for site in sites if site.block is not None})
        heads = [Site("z", block, head) for block in blocks for head in range(anatomy.n_heads)]
        if not heads:
            raise SteeringError("lofit acts on heads, but no site with a block was given; give sites of the blocks")
        norms = self._scale_norms(anatomy, examples, heads, progress)
        ranked = sorted(norms, key=lambda head: -norms[head])
        acting = chosen_heads(ranked, self.heads, self.choice, examples.seed)
        offsets = _HeadTensors(anatomy, examples, acting, Add)
        train([offsets.values], Objective(self._loss(offsets)), len(examples.pairs), self.offsets, progress)
        return {name_of_sites(acting): offsets.plan(detached=True)}

    def _scale_norms(
        self, anatomy: Anatomy, examples: Examples, heads: Sequence[Site], progress: Progress
    ) -> dict[Site, float]:
        """|A_h| of every head after the first stage."""
        scales = _HeadTensors(anatomy, examples, heads, _scale)
        loss = self._loss(scales)
        penalised = Objective(lambda numbers: loss(numbers) + self.sparsity * scales.values.abs().sum())
        train([scales.values], penalised, len(examples.pairs), self.scales, progress)
        return dict(zip(heads, scales.values.detach().norm(dim=1).tolist(), strict=True))

    def _loss(self, tensors: "_HeadTensors") -> Callable[[Sequence[int]], Tensor]:
        return lambda numbers: tensors.preference(numbers, self.beta)


class _HeadTensors:
    """One vector per head, `values` `[heads d]`, from noise of 1e-3, and the moves that are made of them."""

    def __init__(self, anatomy: Anatomy, examples: Examples, heads: Sequence[Site], move: MakeMove):
        self._anatomy, self._examples, self._heads, self._move = anatomy, examples, heads, move
        noise = torch.Generator().manual_seed(examples.seed)
        start = 1e-3 * torch.randn(len(heads), anatomy.width(heads[0]), generator=noise)
        self.values = start.to(anatomy.device).requires_grad_()

    def plan(self, detached: bool = False) -> SteeringPlan:
        values = self.values.detach().clone() if detached else self.values
        steps = [
            Intervention(head, self._move(v), self._examples.span) for head, v in zip(self._heads, values, strict=True)
        ]
        return SteeringPlan(tuple(steps), self._anatomy.fingerprint)

    def preference(self, numbers: Sequence[int], beta: float) -> Float[Tensor, ""]:
        """The loss of DPO on these pairs."""
        texts = texts_of([self._examples.pairs[k] for k in numbers])
        rows = (base_logprobs(self._anatomy, texts), steered_logprobs(self._anatomy, self.plan(), texts))
        base, steered = (torch.stack([one.sum() for one in completion_logprobs(part, texts)]) for part in rows)
        return preference(steered, base, beta, torch.ones(len(numbers), device=base.device))


def _scale(change: Float[Tensor, "d"]) -> Move:
    return Diagonal(1 + change, torch.zeros_like(change))
