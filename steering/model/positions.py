"""PositionTracker: which real token of its row each token of a forward pass is, and where the row's prompt ends.

It sees the arguments of every forward pass of the base model. Without it a span would count per forward pass, and
every cached decode step would look like token 0.
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
    """What is known of the texts (one per row) whose keys and values one cache holds, or one call of generate writes.

    columns: of their prompts, padding included; None when nobody saw where they end. readings: what gates read of the
    clean prompts, None before they did. memory: what gates left for the next pass. continued: passes came after the
    first one.
    """

    columns: int | None = None
    readings: Mapping[Any, Any] | None = None
    memory: dict[Any, Any] = field(default_factory=dict)
    continued: bool = False


class PositionTracker:
    """State of one `with plan.on(model)`.

    prompt_lengths: real tokens per row's prompt, when the caller scores a prompt and completion at once. Without
    it, the prompt is what `model.generate` was given, and otherwise what the first pass into a cache held.
    whole: texts that ran in one pass by hand, counted as prompt to their last token.
    """

    def __init__(self, prompt_lengths: Sequence[int] | None = None):
        self.prompt_lengths = None if prompt_lengths is None else torch.as_tensor(list(prompt_lengths))
        self._texts: weakref.WeakKeyDictionary[Any, TextState] = weakref.WeakKeyDictionary()
        self.whole = 0

    def text_of(self, arguments: Mapping[str, Any]) -> TextState:
        """Of the texts that a pass outside `model.generate` runs: new ones, or those in its cache."""
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
        """A pass gave this output: its cache, which is returned if there is one, holds the text."""
        values = output if isinstance(output, tuple) else output.values()
        cache = next((value for value in values if hasattr(value, "get_seq_length")), None)
        if cache is not None:
            self._texts[cache] = text
        return cache

    def observe(
        self, arguments: Mapping[str, Any], text: TextState, mask: Tensor | None = None
    ) -> tuple[Positions, bool]:
        """Positions of the tokens of the forward pass with these arguments, and whether the prompt's end is known.

        mask: `[b s]`, of the tokens so far, for passes whose own mask is in another form. Raises BadSpan on an unknown
        mask.
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
    """Columns that a cache holds; 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())


def columns_of(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Rows of a pass, and columns of the text when it has run, cached ones included."""
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
