"""Rows from the device to the host, beside the forward pass instead of after it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Copies:
    """Copies of one device's tensors. On CUDA they run on a stream of their own into pinned memory, so that the next
    pass's kernels need not wait; elsewhere a copy is done when it returns."""

    device: torch.device
    _stream: "torch.cuda.Stream | None" = field(init=False)

    def __post_init__(self) -> None:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        object.__setattr__(self, "_stream", stream)

    @property
    def ahead(self) -> int:
        """How many passes may be queued before the oldest one's rows are used."""
        return 0 if self._stream is None else 1

    def take(self, rows: Tensor) -> Tensor:
        """The rows on the host; not to be read before `done` of a later `mark`."""
        if self._stream is None:
            return rows.cpu()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            host = rows.to("cpu", non_blocking=True)
        rows.record_stream(self._stream)  # or its memory would be used again while it is being copied
        return host

    def mark(self) -> "torch.cuda.Event | None":
        """A point in the order of copies; give it to `done`."""
        return None if self._stream is None else self._stream.record_event()

    def done(self, mark: "torch.cuda.Event | None") -> None:
        """Wait until every copy before the mark has arrived."""
        if mark is not None:
            mark.synchronize()
