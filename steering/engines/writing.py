"""Writers: each request of transformers' continuous batching chooses its own next tokens and decides when it has ended.

transformers samples all rows of a pass alike, from one random stream, so an answer would depend on the requests that
happen to run beside it. Here every request has a writer, which is given its row of logits alone.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList


class Writer(Protocol):
    """What chooses the tokens of one request. It is called in the engine's thread, once per token."""

    def write(self, logits: Tensor) -> int | None:
        """The next token, from float32 logits `[v]`; None when the answer has ended."""

    def fail(self, reason: str) -> None:
        """There is no answer, or no more of it."""


class Writers(ContinuousBatchingLogitsProcessorList):
    """Stands in the place of transformers' logits processors: returns scores that are 1 at each row's chosen token.

    Rows without a writer get their most likely token. ended: called with the request whose writer returned None.
    overflown: requests that are to fail, since their steering was too strong.
    """

    def __init__(self, ended: Callable[[str], None], overflown: Container[str]):
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._ended, self._overflown = ended, overflown
        self._writers: dict[str, Writer] = {}
        self.rows: Sequence[str] = ()

    def __setitem__(self, request: str, writer: Writer) -> None:
        self._writers[request] = writer

    def pop(self, request: str) -> Writer | None:
        """The request has ended; its writer, if it had one."""
        return self._writers.pop(request, None)

    def fail_all(self, reason: str) -> None:
        """The engine has stopped."""
        while self._writers:
            self._writers.popitem()[1].fail(reason)

    def __call__(self, input_ids: Any, scores: Tensor, logits_processor_args: Any) -> Tensor:
        """scores `[n v]`, one row for each request in `rows`, the requests of the pass that get a token."""
        tokens = scores.nan_to_num().argmax(-1)
        finite = torch.isfinite(scores).all(-1).tolist()
        for k, request in enumerate(self.rows):
            writer = self._writers.get(request)
            if writer is not None:
                token = self._written(writer, scores[k], finite[k] and request not in self._overflown)
                if token is None:
                    self._ended(request)
                else:
                    tokens[k] = token
        return torch.zeros_like(scores).scatter_(1, tokens[:, None], 1.0)

    def _written(self, writer: Writer, logits: Tensor, finite: bool) -> int | None:
        """A writer that fails ends its own request, not the engine, in whose thread this runs."""
        if not finite:
            writer.fail("activations are not finite: the steering is too strong for this model and dtype")
            return None
        try:
            return writer.write(logits)
        except Exception as error:
            writer.fail(f"{type(error).__name__}: {error}")
            return None
