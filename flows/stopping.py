"""Ctrl-C, SIGTERM and a closed terminal: one line at once, no process left behind, the end within seconds.

Everything that is written can be killed at any instant, so nothing has to be finished. A thread waits for the signal on
a pipe (the interpreter writes to it even while the main thread is inside a long call), tells the user, asks every
process below this one to stop, leaves the main thread a moment to tell a Prefect server, and ends it all.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from types import FrameType

from trimtab.tasks.jobs.processes import KILL, descendants, send

GRACE = 2.5  # seconds from the signal to the end
LINE = "interrupted: nothing half-written is visible; the same command goes on where it stopped"
SHOW_CURSOR = "\x1b[?25h"
_received: list[int] = []
_orderly: list[float] = []  # seconds that a command takes to stop by itself
_told = threading.Event()


def stop_on_signals() -> None:
    """From now on this process is a program that its signals end. Not for notebooks, which have their own ways."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in _signals():
        signal.signal(number, _interrupt)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def stops_by_itself(seconds: float) -> None:
    """From now on a signal is left to the command's own handler, which ends it within so many seconds; a second signal,
    or the end of that time, ends it at once."""
    _orderly.append(seconds)


def stopped_by() -> int | None:
    """The signal that came, if one did."""
    return _received[0] if _received else None


def _signals() -> list[int]:
    """Those that nobody has told us to ignore, as `nohup` does with SIGHUP."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def _interrupt(number: int, frame: FrameType | None) -> None:
    _told.wait(GRACE)  # the line comes before whatever the main thread says while it ends
    raise KeyboardInterrupt


def _watch(reading: int) -> None:
    """Whatever else gets signals (a resized window, a child that ended) writes to the pipe too."""
    ending = set(_signals())
    while (number := os.read(reading, 1)[0]) not in ending:
        pass
    if _orderly:
        _wait_for_second(reading, ending, _orderly[-1])
    _received.append(number)
    _tell()
    _told.set()
    below = descendants()
    send(signal.SIGTERM, below)
    time.sleep(GRACE)
    send(KILL, [*below, *descendants()])
    os._exit(128 + number)


def _wait_for_second(reading: int, ending: set[int], seconds: float) -> None:
    """Until another signal comes, or the time is over."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0] and os.read(reading, 1)[0] in ending:
            return


def _tell() -> None:
    """The line; what libraries say of their sudden end afterwards (tracebacks, retries) is not for the user."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            os.write(2, SHOW_CURSOR.encode())
        os.write(2, f"\n{LINE}\n".encode() if sys.stderr.isatty() else f"{LINE}\n".encode())
        if not os.environ.get("TRIMTAB_DEBUG"):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
