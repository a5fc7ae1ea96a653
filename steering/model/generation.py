"""Watches every call of `model.generate` while plans are attached, since only `generate` knows where the prompt ends.

`generate` receives the prompt, runs it with or without a cache, in one pass or in chunks, and repeats it for beams; the
forward passes do not show which tokens were the prompt. So methods of this one model object are wrapped while the block
runs. A wrapper that was there before (the caller's, or that of an outer block) is called inside and restored
afterwards.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.positions import TextState

Around = Callable[..., Any]  # called with the original method, then its arguments
_ABSENT = object()
PACKED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")


@dataclass(eq=False)
class GenerateCall:
    """One call of `model.generate`. text: what is known of its text. ids, mask: `[b s]`, text and real tokens up to the
    pass that comes next, padding included, as `generate` prepared them (mask None: every token is real). passes:
    prepared so far. cache: of its passes. closing: undone when the call ends."""

    text: TextState
    ids: Tensor | None = None
    mask: Tensor | None = None
    passes: int = 0
    cache: Any = None
    closing: ExitStack = field(default_factory=ExitStack)

    def prepare(self, ids: Tensor | None, mask: Tensor | None) -> None:
        """The next forward pass gets these."""
        self.ids, self.mask, self.passes = ids, mask, self.passes + 1

    def real(self, rows: int, columns: int) -> Tensor | None:
        """`[rows columns]`, 1 for real tokens; None when it is not known. More rows than `generate` prepared are copies
        of all of them, one after another."""
        if self.mask is None:
            return torch.ones(rows, columns) if self.passes else None
        return self.mask.repeat(rows // len(self.mask), 1) if self.mask.ndim == 2 else None


class GenerationWatcher(Protocol):
    """Told what `model.generate` does, in the thread that called it."""

    def generate_started(self, generation: GenerateCall) -> None:
        """Before anything runs."""

    def inputs_prepared(self, ids: Tensor | None, mask: Tensor | None) -> None:
        """Before each forward pass of the generation."""

    def generate_ended(self) -> None:
        """After it, also when it failed."""


@contextmanager
def generate_watched(model: nn.Module, watcher: GenerationWatcher) -> Iterator[None]:
    """Tell `watcher` of every `model.generate` while the block runs. Continuous batching is refused."""

    def generate(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        generation = GenerateCall(TextState(prompt_columns(model, args, kwargs)))
        watcher.generate_started(generation)
        try:
            with generation.closing:
                return original(*args, **kwargs)
        finally:
            watcher.generate_ended()

    def prepare(original: Callable[..., Any], input_ids: Tensor | None, *args: Any, **kwargs: Any) -> Any:
        watcher.inputs_prepared(input_ids, kwargs.get("attention_mask"))
        return original(input_ids, *args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(wrapped(model, "generate", generate))
        stack.enter_context(wrapped(model, "prepare_inputs_for_generation", prepare))
        for name in PACKED:
            if hasattr(model, name):
                stack.enter_context(wrapped(model, name, _refused))
        yield


def prompt_columns(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Columns of the prompt of `model.generate(*args, **kwargs)`, padding and cached tokens included; None when the
    arguments do not say. With a cache, the ids may be only the new tokens, but then the mask is that of the whole."""
    try:
        bound = inspect.signature(type(model).generate).bind(model, *args, **kwargs).arguments
    except TypeError:
        return None  # a caller's own `generate` with other arguments
    arguments = {**bound, **bound.get("kwargs", {})}
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask.shape[1]
    prompt = next(
        (arguments[k] for k in ("inputs", "input_ids", "inputs_embeds") if arguments.get(k) is not None), None
    )
    return None if prompt is None else prompt.shape[1]


@contextmanager
def wrapped(holder: object, name: str, around: Around) -> Iterator[None]:
    """While the block runs, `holder.name(...)` is `around(original, ...)`, on this one object. Blocks may end in any
    order, and a wrapper that someone put on top of ours stays."""
    original, ended = getattr(holder, name), False

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not ended:
            return around(original, *args, **kwargs)
        warnings.warn(f"{name} of a block that has ended was called: its plan no longer acts", stacklevel=2)
        return original(*args, **kwargs)

    wrapper.before = vars(holder).get(name, _ABSENT)  # type: ignore[attr-defined]
    vars(holder)[name] = wrapper
    try:
        yield
    finally:
        ended = True
        _unwrap(holder, name, wrapper)


def _unwrap(holder: object, name: str, wrapper: Any) -> None:
    top: Any = vars(holder).get(name)
    if top is wrapper and wrapper.before is _ABSENT:
        del vars(holder)[name]
    elif top is wrapper:
        vars(holder)[name] = wrapper.before
    else:  # put on later and still there: it must not put ours back
        while top is not None and getattr(top, "before", None) is not wrapper:
            top = getattr(top, "before", None)
        if top is not None:
            top.before = wrapper.before


def _refused(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    raise SteeringError(
        f"{original.__name__} packs the tokens of many requests into one row, where `plan.on` cannot tell whose token "
        f"is whose: use trimtab.steering.engines.huggingface.SteeredBatching, which gives each request its plan, or "
        f"model.generate on padded batches"
    )
