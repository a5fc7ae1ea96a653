"""Ratios inside one interleaved run: what two ways of doing the same thing cost each other, on a machine that others
use too.

Every round runs every case once and divides its time by the base case's time of the same round. The order is drawn
anew each round: a mere rotation would leave every case behind the same neighbour, and a neighbour's caches showed. The
table holds medians over rounds. The CPU column divides process CPU times (all threads together): it stays true where
the wall clock was disturbed, and is the one to read when the range is wide.
"""

import argparse
import gc
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median

LIBRARIES = ("torch", "transformers", "zarr", "icechunk", "prefect")


@dataclass(frozen=True)
class Case:
    """name: how the table calls it. run: does the work once; what it returns is dropped. before: what has to be done
    first, untimed."""

    name: str
    run: Callable[[], object]
    before: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Spent:
    """Seconds of one run: wall clock, and CPU of the whole process."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """One case's seconds and the base's, round by round."""

    name: str
    spent: Sequence[Spent]
    base: Sequence[Spent]

    @property
    def wall(self) -> list[float]:
        return [mine.wall / base.wall for mine, base in zip(self.spent, self.base, strict=True)]

    @property
    def cpu(self) -> list[float]:
        return [mine.cpu / base.cpu for mine, base in zip(self.spent, self.base, strict=True)]


def arguments(what: str, rounds: int, extra: Sequence[tuple[str, int, str]] = ()) -> argparse.Namespace:
    """Command line of a benchmark: --rounds, --threads, and whole numbers given as (name, default, help)."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds of every case ({rounds})")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1: threads that wait for a core spin)")
    for name, default, text in extra:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    return parser.parse_args()


def measure(cases: Sequence[Case], rounds: int) -> list[Row]:
    """Every case `rounds` times against the first one, after one round that is thrown away."""
    times: dict[str, list[Spent]] = {case.name: [] for case in cases}
    for number in range(-1, rounds):
        for case in Random(number).sample(cases, len(cases)):
            case.before()
            spent = timed(case.run)
            if number >= 0:
                times[case.name].append(spent)
    return [Row(case.name, times[case.name], times[cases[0].name]) for case in cases]


def timed(run: Callable[[], object]) -> Spent:
    """One run. Rubbish of the run before is collected first, so that nobody pays for another's."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def table(title: str, rows: Sequence[Row]) -> str:
    """Markdown, the base case first."""
    head = (
        f"**{title}** (base: {median(s.wall for s in rows[0].spent):.2f} s wall, "
        f"{median(s.cpu for s in rows[0].spent):.2f} s CPU)\n\n"
        "| case | wall ratio (median) | min–max | CPU ratio | rounds |\n|---|---|---|---|---|"
    )
    lines = [
        f"| {row.name} | {median(row.wall):.2f} | {min(row.wall):.2f}–{max(row.wall):.2f} "
        f"| {median(row.cpu):.2f} | {len(row.spent)} |"
        for row in rows
    ]
    return "\n".join([head, *lines])


def setting(threads: int) -> str:
    """When, on what and with what: the line above every table."""
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{date.today()}; {os.cpu_count()} x {processor()}, {threads} torch thread(s), load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {versions}"
    )


def processor() -> str:
    """The CPU's own name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
