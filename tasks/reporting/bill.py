"""Bill: where the seconds of a run went, by stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trimtab.tasks.progress import watched

BETWEEN = "between stages"  # loading the model, publishing, reports


@dataclass
class Spent:
    """wall: seconds that passed. cpu: seconds that all threads of this process computed; 2 per second on two busy
    cores. Work in other processes is in wall alone."""

    wall: float = 0.0
    cpu: float = 0.0


class Bill:
    """A sink of progress that charges the time since the last event to the stage that was running then. stages: in the
    order in which they began."""

    def __init__(self) -> None:
        self.stages: dict[str, Spent] = {}
        self._stage, self._wall, self._cpu = BETWEEN, time.monotonic(), time.process_time()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._charge(self._stage)
        self._stage = BETWEEN if done >= total else stage

    def closed(self) -> dict[str, Spent]:
        """All stages, with the time since the last event."""
        self._charge(self._stage)
        return self.stages

    def _charge(self, stage: str) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        spent = self.stages.setdefault(stage, Spent())
        spent.wall += wall - self._wall
        spent.cpu += cpu - self._cpu
        self._wall, self._cpu = wall, cpu


@contextmanager
def billed(wanted: bool) -> Iterator[Bill | None]:
    """While the block runs, time is charged to its stages; None when it is not wanted."""
    if not wanted:
        yield None
        return
    bill = Bill()
    with watched(bill):
        yield bill
