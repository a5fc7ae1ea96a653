"""Only one thread at a time may have plans attached to a model. Hooks belong to the model and not to a thread, so a
plan attached in one thread would also steer forward passes of another thread, and two attached plans would both act in
both."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from trimtab.steering.errors import SteeringError

_LOCK = threading.Lock()
_ATTACHED: "weakref.WeakKeyDictionary[nn.Module, list[tuple[object, int]]]" = weakref.WeakKeyDictionary()


@contextmanager
def attachment(model: nn.Module) -> Iterator[None]:
    """A block in which a plan is attached. Raises SteeringError when another thread's block is open, or when blocks
    end in another order than that in which they nest (two requests that overlapped)."""
    mine = (object(), threading.get_ident())
    with _LOCK:
        blocks = _ATTACHED.setdefault(model, [])
        if any(thread != mine[1] for _, thread in blocks):
            raise SteeringError(
                "a plan is attached to this model in another thread, and it would steer this thread's passes too: "
                "attach one after the other (a lock around the block), or steer many rows at once with steer_rows"
            )
        blocks.append(mine)
    try:
        yield
    finally:
        with _LOCK:
            last = blocks[-1] is mine
            blocks.remove(mine)
    if not last:
        raise SteeringError(
            "a plan's block ended while one that was attached later is still open: the two overlapped, so what ran "
            "meanwhile was steered by both; end them in the order in which they nest"
        )
