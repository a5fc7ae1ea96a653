"""Scorer: the logits at the positions that write an answer, for given prompts and completions, with and without plans.

A prompt's keys and values (without its last token) are computed once and continued with `last token + completion`,
however many completions and plans are scored on it. A plan that leaves those tokens alone (spans `last`, `answer`,
`generated`) re-uses the base model's prompts; any other plan runs the prompts once for itself. Blocks below a plan's
first edit run once for all plans that leave them alone (`resume.py`). The answers are those of `forced_logits`, which
runs whole texts, within the float tolerance. The plan is told each row's true prompt length, so spans mean the same
here as in generation.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import batches, pad_left
from trimtab.steering.model.resuming import can_resume, resumed
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.resume import WHOLE, Begun, Depth, Streams, untouched_blocks

SCORE_BUDGET = 1024
LATE_SPANS = ("last", "answer", "generated")


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
    model: PreTrainedModel, texts: Sequence[Tokens], plan: SteeringPlan | None = None, budget: int = SCORE_BUDGET
) -> Iterator[Forced]:
    """One Forced per text from whole passes, in batches of like length (not in order: use `.example`). Texts without a
    completion give n = 0. budget: tokens per forward pass, padding included."""
    for batch in batches([len(text) for text in texts], budget):
        yield from _forced_batch(model, [texts[i] for i in batch], batch, plan)


def _forced_batch(
    model: PreTrainedModel, texts: list[Tokens], numbers: list[int], plan: SteeringPlan | None
) -> Iterator[Forced]:
    device = Anatomy.of(model).device
    padded = pad_left([text.ids for text in texts], device)
    counts = [len(text) - text.prompt_length for text in texts]
    with torch.inference_mode(), _steered(model, plan, [text.prompt_length for text in texts]):
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


@dataclass(frozen=True, eq=False)
class _Prefix:
    """One batch of prompts without their last token. rows: prompt bytes to row of the cache. mask: `[b s]`."""

    rows: dict[bytes, int]
    mask: Tensor
    cache: DynamicCache

    @property
    def bytes(self) -> int:
        pairs = ((layer.keys, layer.values) for layer in self.cache.layers)  # type: ignore[union-attr]
        return sum(int(keys.nbytes) + int(values.nbytes) for keys, values in pairs)  # type: ignore[union-attr,misc]


@dataclass(frozen=True, eq=False)
class _Way:
    """How texts run. plan: None is the base model. depth: where its passes may begin. begun: where they do, for texts
    whose first blocks ran elsewhere."""

    plan: SteeringPlan | None
    depth: Depth
    begun: Begun | None = None

    @property
    def late(self) -> bool:
        """Whether it leaves prompts as the base model has them."""
        return self.plan is None or leaves_prompts(self.plan)


@dataclass(frozen=True, eq=False)
class Scorer:
    """model: scored with and without plans. keep: bytes of the base model's prompts that stay in memory (others are
    run again). streams: where passes begin in the middle of the model."""

    model: PreTrainedModel
    keep: int = 2**29
    streams: Streams = field(default_factory=Streams)
    _base: dict[tuple[bytes, ...], _Prefix] = field(default_factory=dict, repr=False)

    def forced(self, texts: Sequence[Tokens], plan: SteeringPlan | None = None) -> Iterator[Forced]:
        """One Forced per text, as `forced_logits`; not in order of texts (use `.example`), but in the same order
        for every plan. Falls back to whole passes for gated plans and one-token prompts."""
        blocks = untouched_blocks(self._anatomy, plan)
        return self._forced(texts, _Way(plan, Depth(blocks, 0 if plan is None else blocks)))

    def base(self, texts: Sequence[Tokens], begun: Begun | None = None) -> Iterator[Forced]:
        """`forced` of the base model. begun: the texts' residual streams, where blocks ran on them elsewhere."""
        return self._forced(texts, _Way(None, WHOLE, begun))

    def cache(self, prompts: Sequence[Tokens]) -> DynamicCache:
        """The base model's keys and values of prompts without their last token, padded before them, a row each. Every
        prompt runs once; it must have 2 tokens."""
        rows = {_key(prompt): prompt for prompt in prompts}
        longest_first = sorted(rows.values(), key=lambda prompt: -len(prompt))  # as `batches` has them
        prefix = self._prefix(longest_first, _BASE)
        return self._copied(prefix, [prefix.rows[_key(prompt)] for prompt in prompts])

    def both(
        self, texts: Sequence[Tokens], one: SteeringPlan | None, other: SteeringPlan | None
    ) -> Iterator[tuple[Forced, Forced]]:
        """The same text under two plans, in step, so that the second begins where the first one's edits do. A gated
        plan takes whole passes, which batch in another order and round otherwise, so its partner takes them too."""
        if _gated(one) or _gated(other):
            passes = [forced_logits(self.model, texts, plan) for plan in (one, other)]
        else:
            blocks = [untouched_blocks(self._anatomy, plan) for plan in (one, other)]
            ways = [_Way(plan, Depth(k, min(blocks))) for plan, k in zip((one, other), blocks, strict=True)]
            passes = [self._forced(texts, way) for way in ways]
        yield from zip(*passes, strict=True)

    def logprobs(self, texts: Sequence[Tokens], plan: SteeringPlan | None = None) -> np.ndarray:
        """`[n]` mean log-probability per completion token, nats; nan where a text has no completion."""
        means = np.full(len(texts), np.nan)
        for forced in self.forced(texts, plan):
            if len(forced.targets):
                means[forced.example] = float(forced.logprobs().double().mean())
        return means

    def _forced(self, texts: Sequence[Tokens], way: _Way) -> Iterator[Forced]:
        if _gated(way.plan) or any(text.prompt_length < 2 for text in texts):
            yield from forced_logits(self.model, texts, way.plan)
            return
        groups: dict[bytes, list[int]] = {}
        for i, text in enumerate(texts):
            groups.setdefault(_key(text), []).append(i)
        prompts = [texts[numbers[0]].prompt for numbers in groups.values()]
        for batch in batches([len(prompt) for prompt in prompts]):
            prefix = self._prefix([prompts[k] for k in batch], way)
            numbers = [i for k in batch for i in groups[_key(prompts[k])]]
            yield from self._continued(prefix, texts, numbers, way)

    def _prefix(self, prompts: list[Tokens], way: _Way) -> _Prefix:
        key = tuple(_key(prompt) for prompt in prompts)
        base = self._base.get(key)
        if not way.late:
            return self._run_prefix(prompts, way, base)
        if base is None:
            base = self._run_prefix(prompts, _BASE)
            if sum(stored.bytes for stored in self._base.values()) + base.bytes <= self.keep:
                self._base[key] = base
        return base

    def _run_prefix(self, prompts: list[Tokens], way: _Way, base: _Prefix | None = None) -> _Prefix:
        """base: the same prompts under the base model, from which blocks that are left out take their keys."""
        padded = pad_left([prompt.ids[:-1].tolist() for prompt in prompts], self._device)
        keys, lengths = [_key(prompt) for prompt in prompts], [len(prompt) for prompt in prompts]
        begun = self._begun((b"prompts", *keys), WHOLE if base is None else way.depth)
        with torch.inference_mode(), begun as start, _steered(self.model, way.plan, lengths):
            out = self._anatomy.base(
                input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions, use_cache=True
            )
        cache = out.past_key_values
        if base is not None:
            cache.layers[:start] = base.cache.layers[:start]
        return _Prefix({key: row for row, key in enumerate(keys)}, padded.mask, cache)

    def _continued(self, prefix: _Prefix, texts: Sequence[Tokens], numbers: list[int], way: _Way) -> Iterator[Forced]:
        for batch in batches([len(_writing(texts[i])) for i in numbers], SCORE_BUDGET):
            rows = [numbers[k] for k in batch]
            logits = self._run_ends(prefix, [texts[i] for i in rows], way, self._entry(texts, rows, way))
            for k, i in enumerate(rows):
                targets = texts[i].ids[texts[i].prompt_length :]
                yield Forced(i, logits[k, : len(targets)].float(), torch.from_numpy(targets).to(logits.device))

    def _entry(self, texts: Sequence[Tokens], rows: list[int], way: _Way) -> AbstractContextManager[int]:
        """Where the pass over these texts begins."""
        if way.begun is not None:
            return resumed(self._anatomy, way.begun.depth, 0, way.begun.of(rows))
        return self._begun((b"ends", *(_split_key(texts[i]) for i in rows)), way.depth)

    def _begun(self, batch: tuple[bytes, ...], depth: Depth) -> AbstractContextManager[int]:
        if not can_resume(self._anatomy, self.model):
            return nullcontext(0)
        return self.streams.resumed(self._anatomy, batch, depth)

    def _run_ends(self, prefix: _Prefix, texts: list[Tokens], way: _Way, entry: AbstractContextManager[int]) -> Tensor:
        """Logits `[b s v]` of `last prompt token + completion` without its last, which writes nothing, padded behind,
        where nothing real can see it."""
        ends = [torch.from_numpy(_writing(text)) for text in texts]
        ids = torch.nn.utils.rnn.pad_sequence(ends, batch_first=True)
        rows = [prefix.rows[_key(text)] for text in texts]
        before = prefix.mask[rows]
        places = before.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=self._device)
        with torch.inference_mode(), entry, _steered(self.model, way.plan, [text.prompt_length for text in texts]):
            return self.model(
                input_ids=ids.to(self._device),
                attention_mask=torch.cat([before, torch.ones_like(ids, device=self._device)], dim=1),
                position_ids=places,
                past_key_values=self._copied(prefix, rows),
                use_cache=True,
            ).logits

    def _copied(self, prefix: _Prefix, rows: list[int]) -> DynamicCache:
        """Rows of its cache, to write behind."""
        cache = copy.deepcopy(prefix.cache)
        with torch.inference_mode():
            cache.batch_select_indices(torch.tensor(rows, device=self._device))
        return cache

    @property
    def _anatomy(self) -> Anatomy:
        return Anatomy.of(self.model)

    @property
    def _device(self) -> torch.device:
        return self._anatomy.device


_BASE = _Way(None, WHOLE)


def leaves_prompts(plan: SteeringPlan) -> bool:
    """Whether a plan leaves prompts without their last token as the base model has them."""
    return not plan.gated and all(step.span.kind in LATE_SPANS for step in plan.interventions)


def _key(text: Tokens) -> bytes:
    return text.ids[: text.prompt_length].tobytes()


def _writing(text: Tokens) -> Int[np.ndarray, "n"]:
    """The tokens behind which those of the completion are written: the last one of the prompt, and all but the last of
    the completion."""
    return text.ids[text.prompt_length - 1 : max(len(text) - 1, text.prompt_length)]


def _split_key(text: Tokens) -> bytes:
    """Of prompt and completion."""
    return text.prompt_length.to_bytes(8, "little") + text.ids.tobytes()


def _gated(plan: SteeringPlan | None) -> bool:
    return plan is not None and plan.gated


def _steered(model: PreTrainedModel, plan: SteeringPlan | None, lengths: list[int]) -> AbstractContextManager[object]:
    return nullcontext() if plan is None else plan.on(model, prompt_lengths=lengths)
