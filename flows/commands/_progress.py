"""A progress display on stderr that runs all along: how many, how fast, how long still. Without a terminal: a line when
a stage begins, and one every half minute while it lasts."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from trimtab.flows.commands._show import console, echo
from trimtab.flows.plain_text import visible
from trimtab.tasks.admin.doctor import require_reachable
from trimtab.tasks.progress import heard, watched

EVERY = 30.0  # seconds between two lines


@contextmanager
def shown_progress(quiet: bool) -> Iterator[None]:
    """While the block, in which a flow runs, lasts, stages that tasks report are drawn, and what they say is printed
    above (nothing with `quiet`). Raises
    RecipeError when the Prefect server that the settings name does not answer."""
    require_reachable()
    if quiet:
        yield
    elif sys.stderr.isatty():
        with _bars() as bars, watched(_Bars(bars)), heard(lambda text: bars.console.print(Text(visible(text)))):
            yield
    else:
        with watched(_Lines()), heard(lambda text: echo(text, err=True)):
            yield


def _bars() -> Progress:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, _Rate(), TimeElapsedColumn(), TimeRemainingColumn(), console=console(stderr=True))


class _Rate(ProgressColumn):
    """Things per second over the last moments."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s")


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
    """For log files. clock: seconds, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self._said = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        if stage not in self._began:
            self._began[stage] = (now, done)
            self._say(f"{stage} ({total})", now)
        elif now - self._said >= EVERY:
            self._say(f"{stage}: {done} of {total}{_pace(*self._began[stage], now, (done, total))}", now)

    def _say(self, text: str, now: float) -> None:
        self._said = now
        echo(text, err=True)


def _pace(began: float, first: int, now: float, state: tuple[int, int]) -> str:
    """`, 12.3/s, 0:04:10 left`, counted from what was done when the stage began; a resumed one begins late."""
    done, total = state
    if done <= first or now <= began:
        return ""
    rate = (done - first) / (now - began)
    return f", {rate:.3g}/s, {timedelta(seconds=round((total - done) / rate))} left"
