"""Doubling: each row of a forward pass runs twice, and the caller sees one.

The first half of the doubled batch is steered, the second half is not. The caller receives the hidden states,
attentions and router logits of the first half, and as logits the result of `combine` on both. Only the cache keeps both
halves, so generation that reorders the cache (beam search) is refused.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.steering.errors import SteeringError

# Logits of the first and of the second half `[b k v]`, and the columns of text that the pass ends at, to `[b k v]`.
Combine = Callable[[Tensor, Tensor, int], Tensor]
BATCHED = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")


class Doubling:
    """The two hooks of a doubled model. combine: called once per forward pass."""

    def __init__(self, model: nn.Module, combine: Combine):
        self._names = tuple(inspect.signature(model.forward).parameters)
        self._combine = combine
        self._columns, self._as_tuple = 0, False

    def twice(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        """Before the pass: every row a second time. Raises SteeringError for what cannot be doubled."""
        named = {**dict(zip(self._names, args, strict=False)), **kwargs}
        _check(named)
        text = named["input_ids"] if named.get("input_ids") is not None else named["inputs_embeds"]
        cache = named.get("past_key_values")
        _check_cache(cache, 2 * text.shape[0])
        self._columns = text.shape[1] + (0 if cache is None else int(cache.get_seq_length()))
        self._as_tuple = not named.get("return_dict", getattr(module.config, "return_dict", True))
        if self._as_tuple:
            named["return_dict"] = True
        for name in BATCHED:
            value = named.get(name)
            if isinstance(value, Tensor) and value.shape[0] == text.shape[0]:
                named[name] = torch.cat([value, value])
        return (), named

    def once(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """After the pass: the caller's rows."""
        steered, base = output.logits.chunk(2)
        for name, value in list(output.items()):
            if name not in ("logits", "past_key_values"):
                output[name] = _first_half(value)
        output["logits"] = self._combine(steered, base, self._columns)
        return output.to_tuple() if self._as_tuple else output


def _check(named: dict[str, Any]) -> None:
    if named.get("labels") is not None:
        raise SteeringError("a governed model takes no labels: a loss of mixed logits would not be the model's loss")
    if isinstance(named.get("logits_to_keep"), Tensor):
        raise SteeringError(
            "a governed model keeps the logits of the last positions: give logits_to_keep as a number, not as indices"
        )


def _first_half(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim:
        return value.chunk(2)[0]
    return tuple(_first_half(part) for part in value) if isinstance(value, tuple | list) else value


def _check_cache(cache: Any, rows: int) -> None:
    layers = getattr(cache, "layers", None) or []
    keys = getattr(layers[0], "keys", None) if layers else None
    if isinstance(keys, Tensor) and keys.ndim == 4 and keys.shape[0] != rows:
        raise SteeringError(
            f"the KV cache holds {keys.shape[0]} rows, a governed pass needs {rows} (each row steered and unsteered): "
            f"start the generation inside the block, and without beams"
        )
