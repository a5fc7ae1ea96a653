"""PositionTracker: which real token of its row each token of a forward pass is, and where the row's prompt ends.

It sees the arguments of every forward pass of the base model. Without it a span would count per forward pass, and
every cached decode step would look like token 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.steering.errors import BadSpan
from trimtab.steering.model.span import Positions


class PositionTracker:
    """State of one `with plan.on(model)`.

    prompt_lengths: real tokens per row's prompt, when the caller scores a prompt and completion at once. Without
    it, the prompt is what `model.generate` was given, and otherwise what the last forward without a cache held.
    """

    def __init__(self, prompt_lengths: Sequence[int] | None = None):
        self._given = None if prompt_lengths is None else torch.as_tensor(list(prompt_lengths))
        self._columns: int | None = None
        self._generating = False
        self.new_text = False  # the pass seen last began a text: nothing cached, outside `model.generate`

    def generate_started(self, columns: int) -> None:
        self._columns, self._generating = columns, True

    def generate_ended(self) -> None:
        self._columns, self._generating = None, False

    def observe(self, arguments: Mapping[str, Any]) -> Positions:
        """Positions of the tokens of the forward pass with these arguments. Raises BadSpan on an unknown mask."""
        given = arguments.get("input_ids")
        given = arguments["inputs_embeds"] if given is None else given
        b, s = given.shape[:2]
        past = _past_length(arguments.get("past_key_values"))
        real = _real(arguments.get("attention_mask"), b, past, s).to(given.device)
        self.new_text = past == 0 and not self._generating
        if not self._generating and (past == 0 or self._columns is None):
            self._columns = past + s
        place = real.long().cumsum(1) - 1
        index = torch.where(real, place, -1)[:, past:]
        return Positions(index, self._prompt_length(real))

    def _prompt_length(self, real: Tensor) -> Tensor:
        rows = real.shape[0]
        if self._given is None:
            return real[:, : self._columns].sum(1)
        if rows % len(self._given):
            raise BadSpan(f"prompt_lengths names {len(self._given)} rows but the batch has {rows}; give one per row")
        return self._given.to(real.device).repeat_interleave(rows // len(self._given))


def _past_length(cache: Any) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


def _real(mask: Any, b: int, past: int, s: int) -> Tensor:
    if mask is None:
        return torch.ones(b, past + s, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] < past + s:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise BadSpan(
            f"attention_mask is {shape}, but {past} cached and {s} new tokens need a mask of [{b}, {past + s}] with 1 "
            f"for real tokens; without it padding cannot be told from text"
        )
    return mask[:, : past + s].bool()
