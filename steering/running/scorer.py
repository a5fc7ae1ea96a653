"""Scorer: forced scoring that runs each prompt once, however many completions and plans are scored on it.

A prompt's keys and values (without its last token) are computed once and continued with `last token + completion`.
A plan that leaves those tokens alone (spans `last`, `answer`, `generated`) re-uses the base model's; any other plan
runs the prompts once for itself. The answers are those of `forced_logits` within the float tolerance.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import batches, pad_left
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.scoring import SCORE_BUDGET, Forced, forced_logits

LATE_SPANS = ("last", "answer", "generated")


@dataclass(frozen=True, eq=False)
class _Prefix:
    """One batch of prompts without their last token. rows: prompt bytes to row of the cache. mask: `[b s]`."""

    rows: dict[bytes, int]
    mask: Tensor
    cache: DynamicCache

    @property
    def bytes(self) -> int:
        held = ((layer.keys, layer.values) for layer in self.cache.layers)  # type: ignore[union-attr]
        return sum(int(keys.nbytes) + int(values.nbytes) for keys, values in held)  # type: ignore[union-attr,misc]


@dataclass(frozen=True, eq=False)
class Scorer:
    """model: scored with and without plans. keep: bytes of base prefixes kept in memory (the rest is made anew)."""

    model: PreTrainedModel
    keep: int = 2**29
    _base: dict[tuple[bytes, ...], _Prefix] = field(default_factory=dict, repr=False)

    def forced(self, texts: Sequence[Tokens], plan: SteeringPlan | None = None) -> Iterator[Forced]:
        """One Forced per text, as `forced_logits`; not in order of texts (use `.example`), but in the same order
        for every plan. Falls back to whole passes for gated plans and one-token prompts."""
        if gated(plan) or any(text.prompt_length < 2 for text in texts):
            yield from forced_logits(self.model, texts, plan)
            return
        groups: dict[bytes, list[int]] = {}
        for i, text in enumerate(texts):
            groups.setdefault(_key(text), []).append(i)
        prompts = [texts[numbers[0]].prompt for numbers in groups.values()]
        for chosen in batches([len(prompt) for prompt in prompts]):
            prefix = self._prefix([prompts[k] for k in chosen], plan)
            numbers = [i for k in chosen for i in groups[_key(prompts[k])]]
            yield from self._continued(prefix, texts, numbers, plan)

    def both(
        self, texts: Sequence[Tokens], one: SteeringPlan | None, other: SteeringPlan | None
    ) -> Iterator[tuple[Forced, Forced]]:
        """The same text under two plans, in step. A gated plan takes whole passes, which batch in another order and
        round otherwise, so its partner takes them too."""
        if gated(one) or gated(other):
            passes = (forced_logits(self.model, texts, plan) for plan in (one, other))
        else:
            passes = (self.forced(texts, plan) for plan in (one, other))
        yield from zip(*passes, strict=True)

    def logprobs(self, texts: Sequence[Tokens], plan: SteeringPlan | None = None) -> np.ndarray:
        """`[n]` mean log-probability per completion token, nats; nan where a text has no completion."""
        found = np.full(len(texts), np.nan)
        for forced in self.forced(texts, plan):
            if len(forced.targets):
                found[forced.example] = float(forced.logprobs().double().mean())
        return found

    def _prefix(self, prompts: list[Tokens], plan: SteeringPlan | None) -> _Prefix:
        key = tuple(_key(prompt) for prompt in prompts)
        late = plan is None or all(step.span.kind in LATE_SPANS for step in plan.interventions)
        if late and key in self._base:
            return self._base[key]
        made = self._run_prefix(prompts, None if late else plan)
        if late and sum(known.bytes for known in self._base.values()) + made.bytes <= self.keep:
            self._base[key] = made
        return made

    def _run_prefix(self, prompts: list[Tokens], plan: SteeringPlan | None) -> _Prefix:
        padded = pad_left([prompt.ids[:-1].tolist() for prompt in prompts], self._device)
        with torch.inference_mode(), _steered(self.model, plan, [len(prompt) for prompt in prompts]):
            out = Anatomy.of(self.model).base(
                input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions, use_cache=True
            )
        rows = {_key(prompt): k for k, prompt in enumerate(prompts)}
        return _Prefix(rows, padded.mask, out.past_key_values)

    def _continued(self, prefix: _Prefix, texts, numbers: list[int], plan) -> Iterator[Forced]:
        ends = [texts[i].ids[texts[i].prompt_length - 1 :] for i in numbers]
        for batch in batches([len(end) for end in ends], SCORE_BUDGET):
            rows = [numbers[k] for k in batch]
            logits = self._run_ends(prefix, [texts[i] for i in rows], plan)
            for k, i in enumerate(rows):
                targets = texts[i].ids[texts[i].prompt_length :]
                yield Forced(i, logits[k, : len(targets)].float(), torch.from_numpy(targets).to(logits.device))

    def _run_ends(self, prefix: _Prefix, texts: list[Tokens], plan) -> Tensor:
        """Logits `[b s v]` of `last prompt token + completion`, padded behind, where nothing real can see it."""
        ends = [text.ids[text.prompt_length - 1 :] for text in texts]
        ids = torch.zeros(len(ends), max(len(end) for end in ends), dtype=torch.long)
        for k, end in enumerate(ends):
            ids[k, : len(end)] = torch.from_numpy(end)
        chosen = torch.tensor([prefix.rows[_key(text)] for text in texts], device=self._device)
        before = prefix.mask[chosen]
        places = before.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=self._device)
        cache = copy.deepcopy(prefix.cache)
        with torch.inference_mode(), _steered(self.model, plan, [text.prompt_length for text in texts]):
            cache.batch_select_indices(chosen)
            return self.model(
                input_ids=ids.to(self._device),
                attention_mask=torch.cat([before, torch.ones_like(ids, device=self._device)], dim=1),
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            ).logits

    @property
    def _device(self) -> torch.device:
        return Anatomy.of(self.model).device


def _key(text: Tokens) -> bytes:
    return text.ids[: text.prompt_length].tobytes()


def gated(plan: SteeringPlan | None) -> bool:
    """True when a gate decides in it: prompt and answer must then pass under one `plan.on`."""
    return plan is not None and any(isinstance(step.move, Gated) for step in plan.interventions)


def _steered(model: PreTrainedModel, plan: SteeringPlan | None, lengths: list[int]):
    return nullcontext() if plan is None else plan.on(model, prompt_lengths=lengths)
