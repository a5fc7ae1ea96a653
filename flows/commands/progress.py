"""A progress display on stderr that runs all along. Without a terminal: one line when a stage begins."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trimtab.flows.commands.output import console
from trimtab.tasks.progress import watched


@contextmanager
def shown_progress(quiet: bool) -> Iterator[None]:
    """While the block runs, stages that tasks report are drawn (nothing with `quiet`)."""
    if quiet:
        yield
    elif sys.stderr.isatty():
        with _bars() as bars, watched(_Bars(bars)):
            yield
    else:
        with watched(_Lines()):
            yield


def _bars() -> Progress:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console(stderr=True))


class _Bars:
    """One bar a stage."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._stages: dict[str, object] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._stages[stage], completed=done, total=total)  # type: ignore[arg-type]


class _Lines:
    """For log files."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._seen:
            self._seen.add(stage)
            print(f"{stage} ({total})", file=sys.stderr, flush=True)
