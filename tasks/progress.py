"""Progress of long work: tasks report, whoever watches draws. In the terminal a rich bar, in Prefect an artifact."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.artifacts import create_progress_artifact, update_progress_artifact

Sink = Callable[[str, int, int], None]
_SINKS: list[Sink] = []


@contextmanager
def watched(sink: Sink) -> Iterator[None]:
    """While the block runs, `sink(stage, done, total)` hears of all progress in this process."""
    _SINKS.append(sink)
    try:
        yield
    finally:
        _SINKS.remove(sink)


def report(stage: str, done: int, total: int) -> None:
    """Say how far a stage is. Cheap: call it as often as you like."""
    for sink in _SINKS:
        sink(stage, done, total)


class PrefectProgress:
    """A sink that keeps one progress artifact per stage in Prefect, updated at most every `seconds`."""

    def __init__(self, seconds: float = 2.0):
        self._seconds, self._last = seconds, 0.0
        self._artifacts: dict[str, object] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now, finished = time.monotonic(), done >= total
        if not finished and now - self._last < self._seconds:
            return
        self._last = now
        share = 100.0 * done / max(total, 1)
        if stage not in self._artifacts:
            self._artifacts[stage] = create_progress_artifact(share, key=_key(stage), description=stage)
        else:
            update_progress_artifact(self._artifacts[stage], share)  # type: ignore[arg-type]


def _key(stage: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in stage.lower()).strip("-")
