"""PositionTracker: which real token of its row each token of a forward pass is, and where the row's prompt ends.

It reads the arguments of every forward pass of the base model: token ids, attention mask and cache. With a cache each
decoding step is a forward pass of one token; the tracker says that this is token 57 of its text and not token 0.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trimtab.steering.errors import BadSpan
from trimtab.steering.model.span import Positions


@dataclass(eq=False)
class TextState:
    """What is known of the texts, one per row, whose keys and values one cache holds, or which one call of `generate`
    writes.

    columns: number of columns of their prompts, padding included; None when the pass that held the prompt was not
    observed. readings: activations of the unsteered prompts that gates read, None before they were read. memory: what
    gates stored for the next pass. continued: True once a pass came after the first one.
    """

    columns: int | None = None
    readings: Mapping[Any, Any] | None = None
    memory: dict[Any, Any] = field(default_factory=dict)
    continued: bool = False


class PositionTracker:
    """State of one `with plan.on(model)`.

    prompt_lengths: number of real tokens of each row's prompt; needed where prompt and completion run in one pass.
    Without it, the prompt is what `model.generate` was called with, or else what the first pass into a cache held.
    whole: number of passes outside `model.generate` that held more than one token and were followed by no other; all
    of their tokens counted as prompt.
    """

    def __init__(self, prompt_lengths: Sequence[int] | None = None):
        self.prompt_lengths = None if prompt_lengths is None else torch.as_tensor(list(prompt_lengths))
        self._texts: weakref.WeakKeyDictionary[Any, TextState] = weakref.WeakKeyDictionary()
        self.whole = 0

    def text_of(self, arguments: Mapping[str, Any]) -> TextState:
        """The state of the texts that a pass outside `model.generate` runs: the one of its cache, or a new one."""
        past, tokens = past_length(arguments.get("past_key_values")), _inputs(arguments).shape[1]
        if past == 0:
            self.whole += tokens > 1
            return TextState(tokens)
        text = self._texts.get(arguments["past_key_values"])
        if text is None:
            return TextState()
        self.whole -= not text.continued and (text.columns or 0) > 1
        text.continued = True
        return text

    def keep(self, text: TextState, output: Any) -> Any:
        """Remember that the cache in the output of a pass holds this text. Returns the cache, None without one."""
        values = output if isinstance(output, tuple) else output.values()
        cache = next((value for value in values if hasattr(value, "get_seq_length")), None)
        if cache is not None:
            self._texts[cache] = text
        return cache

    def observe(
        self, arguments: Mapping[str, Any], text: TextState, mask: Tensor | None = None
    ) -> tuple[Positions, bool]:
        """Positions of the `[b s]` tokens of the forward pass with these arguments, and whether it is known where the
        prompts end.

        mask: `[b past+s]`, 1 for real tokens among those of cache and pass; used where the attention mask of the pass
        has one row per query. Raises BadSpan when no mask of that shape is there, or when `prompt_lengths` does not
        divide the rows.
        """
        inputs = _inputs(arguments)
        b, s = inputs.shape[:2]
        past = past_length(arguments.get("past_key_values"))
        real = _real(arguments.get("attention_mask"), mask, b, past, s).to(inputs.device)
        if text.columns is None and self.prompt_lengths is None:
            return Positions(_index(real)[:, past:], real.sum(1)), False
        return Positions(_index(real)[:, past:], self._prompt_length(real, text.columns)), True

    def _prompt_length(self, real: Tensor, columns: int | None) -> Tensor:
        rows = real.shape[0]
        if self.prompt_lengths is None:
            to_come = max(0, (columns or 0) - real.shape[1])  # of a prompt in chunks; padding comes first
            return real[:, :columns].sum(1) + to_come
        lengths = self.prompt_lengths
        if rows % len(lengths):
            raise BadSpan(f"prompt_lengths names {len(lengths)} rows but the batch has {rows}; give one per row")
        return lengths.to(real.device).repeat_interleave(rows // len(lengths))


def past_length(cache: Any) -> int:
    """Number of columns (tokens with padding) that a cache holds; 0 without a cache."""
    return 0 if cache is None else int(cache.get_seq_length())


def columns_of(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """(rows of a pass, columns of the text after it, cached ones included)."""
    rows, tokens = _inputs(arguments).shape[:2]
    return rows, past_length(arguments.get("past_key_values")) + tokens


def _inputs(arguments: Mapping[str, Any]) -> Tensor:
    ids = arguments.get("input_ids")
    return arguments["inputs_embeds"] if ids is None else ids


def _index(real: Tensor) -> Tensor:
    return torch.where(real, real.long().cumsum(1) - 1, -1)


def _real(mask: Any, prepared: Tensor | None, b: int, past: int, s: int) -> Tensor:
    """`[b past+s]`, True for real tokens. prepared: for passes whose mask is one per query (static caches)."""
    if mask is None:
        return torch.ones(b, past + s, dtype=torch.bool)
    if prepared is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        mask = prepared
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] < past + s:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise BadSpan(
            f"attention_mask is {shape}, but {past} cached and {s} new tokens need a mask of [{b}, {past + s}] with 1 "
            f"for real tokens; without it padding cannot be told from text"
        )
    return mask[:, : past + s].bool()
