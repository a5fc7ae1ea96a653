"""generate: text from prompts, with or without a plan. Every row draws from its own seeded stream, so the answer to a
prompt does not depend on the batch that it is in."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trimtab.steering.governing.governed import processors_of
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import Padded, pad_left
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.sampling import Sampling


@dataclass(frozen=True)
class Decoding:
    """max_new_tokens per row. temperature: 0 is greedy, 1 draws from the model's own distribution. seed: of row 0; row
    k uses seed + k. top_k, top_p: as in Sampling."""

    max_new_tokens: int = 32
    temperature: float = 1.0
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def sampling(self) -> Sampling:
        """How a token is drawn. Raises SteeringError for values out of range."""
        return Sampling(self.temperature, self.top_k, self.top_p)


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    plan: SteeringPlan | None = None,
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
    """One token per row from its own stream. Streams live on the CPU, so devices agree. processors: what logits go
    through first."""

    def __init__(self, decoding: Decoding, seeds: list[int]):
        self._greedy = decoding.sampling.greedy
        self.processors = decoding.sampling.processors()
        self._streams = {seed: torch.Generator().manual_seed(seed) for seed in seeds}  # rows of one seed draw alike
        order = {seed: k for k, seed in enumerate(self._streams)}
        self._stream_of = torch.tensor([order[seed] for seed in seeds], dtype=torch.long)

    def __call__(self, scores: Tensor) -> Tensor:
        """Token ids `[b]` from processed logits `[b v]`."""
        if self._greedy:
            return scores.argmax(-1).cpu()
        noise = torch.stack([torch.rand(scores.shape[-1], generator=stream) for stream in self._streams.values()])
        gumbel = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
        return (scores.cpu() + gumbel[self._stream_of]).argmax(-1)


def decode(
    model: PreTrainedModel,
    rows: Sequence[Tokens],
    draw: Draw,
    limit: int,
    observe: Callable[[Tensor], object] = lambda logits: None,
    cache: DynamicCache | None = None,
) -> list[list[int]]:
    """Token ids written after each row's prompt, all rows in one batch, until each has ended or has `limit` tokens.
    observe: called with the logits `[b v]` of every step, before any processor. cache: of all prompts without their
    last token, padded before them; it grows. A governed model stays within its budget behind the draw's processors."""
    anatomy = Anatomy.of(model)
    device, ends = anatomy.device, anatomy.end_tokens
    padded = pad_left([row.ids[: row.prompt_length] for row in rows], device)
    prompt = padded.ids.shape[1]
    stops = torch.tensor(sorted(ends), device=device) if ends else None
    written: list[list[int]] = [[] for _ in rows]
    open_rows = [True] * len(rows)
    with processors_of(anatomy.model, draw.processors, prompt, stops) as process:
        steps = _Steps(model, padded, cache)
        for _ in range(limit):
            logits = steps.logits()
            observe(logits)
            token = draw(process(steps.text, logits.float()))
            for k, t in enumerate(token.tolist()):
                open_rows[k] = open_rows[k] and t not in ends
                if open_rows[k]:
                    written[k].append(t)
            if not any(open_rows):
                break
            steps.follow(token.to(device))
    return written


class _Steps:
    """A batch of rows that grows by a token per step, with its KV cache. text: all ids so far `[b s]`."""

    def __init__(self, model: PreTrainedModel, padded: Padded, cache: DynamicCache | None):
        self._model, self._cache = model, cache
        first = 0 if cache is None else padded.ids.shape[1] - 1
        self.text, self._ids = padded.ids, padded.ids[:, first:]
        self._mask, self._positions = padded.mask, padded.positions[:, first:]

    def logits(self) -> Tensor:
        """Of the next token, `[b v]`."""
        out = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = out.past_key_values
        return out.logits[:, -1]

    def follow(self, token: Tensor) -> None:
        """One token `[b]` for every row."""
        self._ids = token[:, None]
        self.text = torch.cat([self.text, self._ids], dim=1)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(token), 1)], dim=1)
        self._positions = self._positions[:, -1:] + 1
