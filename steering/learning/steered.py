"""Steered passes whose gradients reach the plan's own tensors."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.padded_texts import PaddedTexts


def steered_logprobs(anatomy: Anatomy, plan: SteeringPlan, texts: Sequence[Tokens]) -> list[Float[Tensor, "n v"]]:
    """Per text, log-probabilities at the positions that write its completion, under the plan. Tensors of the plan's
    moves that require gradients get them; the model's parameters get none."""
    padded = PaddedTexts.of(texts, anatomy.device)
    with frozen(anatomy.model), plan.on(anatomy.model, prompt_lengths=padded.prompt_lengths):
        return padded.logprobs(anatomy.model)


def base_logprobs(anatomy: Anatomy, texts: Sequence[Tokens]) -> list[Float[Tensor, "n v"]]:
    """The same of the unsteered model, without gradients."""
    with torch.no_grad():
        return PaddedTexts.of(texts, anatomy.device).logprobs(anatomy.model)
