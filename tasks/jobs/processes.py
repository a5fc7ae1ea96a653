"""The processes below this one: that they end with it, and that a terminal's Ctrl-C is not told to each of them."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def end_with_parent() -> None:
    """In a worker process: a thread that ends it, and what it started, when its parent ends, however that ends. By
    itself a pool's worker would finish its share and then wait for ever."""
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    send(KILL, descendants())
    os._exit(1)


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Threads and processes that are started in the block never see Ctrl-C, which a terminal sends to all of them: the
    main process ends them. Not to be held while waiting."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def descendants() -> list[int]:
    """All processes below this one, parents first."""
    parents = _parents()
    below: list[int] = []
    generation = {os.getpid()}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        below += sorted(generation)
    return below


def send(number: int, processes: Iterable[int]) -> None:
    """A signal to each of them; those that have ended are no error."""
    for process in processes:
        with contextlib.suppress(OSError):
            os.kill(process, number)


def _parents() -> dict[int, int]:
    """Parent of every process; from /proc where there is one, else from `ps`."""
    if Path("/proc/self/stat").exists():
        return dict(filter(None, map(_stat, Path("/proc").glob("[0-9]*/stat"))))
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    return {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        return int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):  # it ended while we looked
        return None
