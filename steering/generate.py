"""generate: text from prompts, with or without a plan. Every row draws from its own seeded stream, so what a prompt
is answered does not depend on its batch."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.batching import pad_left
from trimtab.steering.model.tokens import Tokens

if TYPE_CHECKING:
    from trimtab.steering.plan import SteeringPlan


@dataclass(frozen=True)
class Decoding:
    """max_new_tokens per row. temperature: 0 is greedy, 1 draws from the model's own distribution. seed: of row 0; row
    k uses seed + k."""

    max_new_tokens: int = 32
    temperature: float = 1.0
    seed: int = 0


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    plan: "SteeringPlan | None" = None,
    decoding: Decoding = Decoding(),
    batch: int = 16,
) -> list[list[int]]:
    """Token ids written after each prompt, without the end-of-text token that stopped it."""
    written: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        draw = Draw(decoding, [decoding.seed + start + k for k in range(len(rows))])
        lengths = [row.prompt_length for row in rows]
        steered = nullcontext() if plan is None else plan.on(model, prompt_lengths=lengths)
        with torch.inference_mode(), steered:
            written += decode(model, rows, draw, decoding.max_new_tokens)
    return written


class Draw:
    """One token per row from its own stream. Streams live on the CPU, so devices agree."""

    def __init__(self, decoding: Decoding, seeds: list[int]):
        self._temperature = decoding.temperature
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, logits: Tensor) -> Tensor:
        if self._temperature == 0:
            return logits.argmax(-1).cpu()
        noise = torch.stack([torch.rand(logits.shape[-1], generator=stream) for stream in self._streams])
        gumbel = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
        return (logits.float().cpu() / self._temperature + gumbel).argmax(-1)


def decode(
    model: PreTrainedModel,
    rows: Sequence[Tokens],
    draw: Draw,
    limit: int,
    seen: Callable[[Tensor], object] = lambda logits: None,
) -> list[list[int]]:
    """Token ids written after each row's prompt, all rows in one batch, until each has ended or has `limit` tokens.
    seen: called with the logits `[b v]` of every step."""
    device = next(model.parameters()).device
    padded = pad_left([row.ids[: row.prompt_length] for row in rows], device)
    ids, mask, positions = padded.ids, padded.mask, padded.positions
    ends = _end_tokens(model)
    written: list[list[int]] = [[] for _ in rows]
    open_rows, cache = [True] * len(rows), None
    for _ in range(limit):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, token = out.past_key_values, draw(out.logits[:, -1])
        seen(out.logits[:, -1])
        for k, t in enumerate(token.tolist()):
            open_rows[k] = open_rows[k] and t not in ends
            if open_rows[k]:
                written[k].append(t)
        if not any(open_rows):
            break
        ids = token[:, None].to(device)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return written


def _end_tokens(model: PreTrainedModel) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    return set() if ends is None else set(ends) if isinstance(ends, list) else {ends}
