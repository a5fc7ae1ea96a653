"""Forced scoring: the logits at the positions that write an answer, for given prompts and completions.

The plan sees each row's true prompt length, so spans mean the same here as in generation.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import batches, pad_left
from trimtab.steering.model.tokens import Tokens

if TYPE_CHECKING:
    from trimtab.steering.plans.plan import SteeringPlan

SCORE_BUDGET = 1024


@dataclass(frozen=True, eq=False)
class Forced:
    """example: index of the text. logits: `[n d_vocab]` float32, at the last prompt token up to the last but one token.
    targets: `[n]` the completion's token ids."""

    example: int
    logits: Float[Tensor, "n v"]
    targets: Int[Tensor, "n"]

    def logprobs(self) -> Float[Tensor, "n"]:
        """Log-probability of each target, nats."""
        return self.logits.gather(-1, self.targets[:, None])[:, 0] - self.logits.logsumexp(-1)


def forced_logits(
    model: PreTrainedModel, texts: Sequence[Tokens], plan: "SteeringPlan | None" = None, budget: int = SCORE_BUDGET
) -> Iterator[Forced]:
    """One Forced per text, in batches of like length (not in order: use `.example`). Texts without a completion give
    n = 0. budget: tokens per forward pass, padding included."""
    for batch in batches([len(text) for text in texts], budget):
        yield from _forced_batch(model, [texts[i] for i in batch], batch, plan)


def _forced_batch(model, texts: list[Tokens], numbers: list[int], plan) -> Iterator[Forced]:
    device = Anatomy.of(model).device
    padded = pad_left([text.ids for text in texts], device)
    counts = [len(text) - text.prompt_length for text in texts]
    lengths = [text.prompt_length for text in texts]
    steered = nullcontext() if plan is None else plan.on(model, prompt_lengths=lengths)
    with torch.inference_mode(), steered:
        logits = model(
            input_ids=padded.ids,
            attention_mask=padded.mask,
            position_ids=padded.positions,
            use_cache=False,
            logits_to_keep=max(counts) + 1,
        ).logits
    # Yielded outside the `with`: two interleaved generators would otherwise steer each other's passes.
    for k, (text, n) in enumerate(zip(texts, counts, strict=True)):
        answer = logits[k, logits.shape[1] - 1 - n : -1].float()
        yield Forced(numbers[k], answer, torch.from_numpy(text.ids[len(text) - n :]).to(device))
