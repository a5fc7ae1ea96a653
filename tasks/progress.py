"""Progress of long work. Stages report how far they are; whoever watches shows it: a bar in the terminal, an artifact
in Prefect."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

Listener = Callable[[str, int, int], None]
Reader = Callable[[str], None]
_SINKS: list[Listener] = []
_READERS: list[Reader] = []


@contextmanager
def watched(sink: Listener) -> Iterator[None]:
    """While the block runs, `sink(stage, done, total)` is called for all progress in this process."""
    _SINKS.append(sink)
    try:
        yield
    finally:
        _SINKS.remove(sink)


def report(stage: str, done: int, total: int) -> None:
    """Say how far a stage is. Cheap: call it as often as you like."""
    for sink in list(_SINKS):
        sink(stage, done, total)


@contextmanager
def heard(reader: Reader) -> Iterator[None]:
    """While the block runs, `reader(text)` is called for all that stages in this process say before they end."""
    _READERS.append(reader)
    try:
        yield
    finally:
        _READERS.remove(reader)


def say(text: str) -> None:
    """Something worth reading while a stage goes on; nothing happens when nobody listens."""
    for reader in list(_READERS):
        reader(text)


class PrefectProgress:
    """A sink that keeps one Prefect progress artifact per stage, sent at most every `seconds` and at the stage's end.

    A server that does not take one gets no more: work does not end because its progress cannot be shown.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._sent: dict[str, float] = {}
        self._artifacts: dict[str, UUID] = {}
        self._refused = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._refused or (done < total and now - self._sent.get(stage, float("-inf")) < self._seconds):
            return
        self._sent[stage] = now
        try:
            self._send(stage, 100.0 * done / max(total, 1))
        except httpx.HTTPError:
            self._refused = True

    def _send(self, stage: str, percent: float) -> None:
        if stage in self._artifacts:
            update_progress_artifact(self._artifacts[stage], percent)
        else:
            artifact = create_progress_artifact(percent, key=artifact_key(stage), description=stage)
            self._artifacts[stage] = cast(UUID, artifact)  # a coroutine only where the caller is one


def artifact_key(stage: str) -> str:
    """The key of a stage's artifact: `ranking heads` is `ranking-heads`."""
    return "-".join("".join(c if c.isalnum() else " " for c in stage.lower()).split())
