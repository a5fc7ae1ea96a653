"""Passes that begin in the middle of the model: the first blocks answer with what they gave in an earlier pass.

The family's own forward still makes masks and positions, and calls every block in turn; a block that is left out
returns the stored output of the last one left out. So this needs no knowledge of a family, except that a block takes
nothing from earlier ones but the residual stream: `can_resume` tries that on the model in hand.
"""

import copy
import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.steering.model.generation import wrapped
from trimtab.steering.model.layout import Layout
from trimtab.steering.model.proof import TOLERANCE

Streams = MutableMapping[int, Any]  # depth d to what block d - 1 returned: a tensor, or a tuple that begins with it
TOKENS = (6, 3)  # of the passes that try it: cached, and behind the cache


@contextmanager
def resumed(layout: Layout, deepest: int, recorded: int, streams: Streams) -> Iterator[int]:
    """While the block runs, this thread's passes begin behind the largest stored depth up to `deepest`, which is
    yielded (0: from the first block).

    recorded: a depth whose stream is stored in `streams` when a pass runs through it, as it was before any hook. The
    caller sees to it that all passes over one `streams` have the same tokens, masks and cache, and that no edit acts
    below `deepest`. Blocks that are left out write nothing into the cache.
    """
    start, thread = max((depth for depth in streams if depth <= deepest), default=0), get_ident()

    def answer(original: Any, *args: Any, **kwargs: Any) -> Any:
        return streams[start] if get_ident() == thread else original(*args, **kwargs)

    def record(original: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        if get_ident() == thread:
            streams[recorded] = output
        return output

    with ExitStack() as stack:
        for block in layout.blocks[:start]:
            stack.enter_context(wrapped(block, "forward", answer))
        if start < recorded:
            stack.enter_context(wrapped(layout.blocks[recorded - 1], "forward", record))
        yield start


def stream_of(output: Any) -> Float[Tensor, "b s d"]:
    """The residual stream in what a block returned."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def can_resume(layout: Layout, model: nn.Module) -> bool:
    """Whether passes may begin in the middle. model: what is called, which may wrap the layout's. Tried once per model,
    on a few tokens behind a cache: the logits must be those of the whole pass, also when another text ran in between.
    False for what torch.compile made, as blocks cannot be exchanged in it."""
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules()):
        return False
    if layout.model not in _TRIED:
        _TRIED[layout.model] = _tried(layout)
    return _TRIED[layout.model]


def _tried(layout: Layout) -> bool:
    depth, streams = layout.n_layers // 2, dict[int, Any]()
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(0, layout.d_vocab, (2, sum(TOKENS)), generator=generator) for _ in range(2))
    with torch.inference_mode():
        past = layout.model(input_ids=one[:, : TOKENS[0]].to(layout.device), use_cache=True).past_key_values
        with resumed(layout, depth, depth, streams):
            whole = _continued(layout, one, past)
        _continued(layout, other, past)  # whatever a block leaves elsewhere for later ones is now of another text
        try:
            with resumed(layout, depth, depth, streams):
                again = _continued(layout, one, past)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return False  # what a family's own code raises when blocks gave less than it takes
    largest = float(whole.abs().max())
    return depth > 0 and float((whole - again).abs().max()) <= TOLERANCE.get(whole.dtype, 2e-2) * largest


def _continued(layout: Layout, ids: Tensor, past: Any) -> Tensor:
    """Logits of the last tokens, behind a copy of the cache of the first ones."""
    last = ids[:, TOKENS[0] :].to(layout.device)
    logits: Tensor = layout.model(input_ids=last, past_key_values=copy.deepcopy(past), use_cache=True).logits
    return logits


_TRIED: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()
