"""Commits from machines whose clocks differ.

Icechunk dates a snapshot by the clock of the machine that commits it. It refuses one that is not younger than its
parent, and one that is more than ten minutes away from the clock of the storage. So a machine whose clock is behind
waits until it has passed the parent's date.
"""

import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import icechunk

from trimtab.store.errors import ClockSkew

PATIENCE = 60.0  # seconds
TICK = 0.001  # seconds past the parent's date: a parent must be older, not as old
DATE = r"`(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*) UTC`"
BEHIND = re.compile(rf"timestamp ordering\. parent: {DATE}, child: {DATE}")
DRIFTED = re.compile(rf"local clock: {DATE}, object store clock: {DATE}")
T = TypeVar("T")


def in_order(place: str, commit: Callable[[], T]) -> T:
    """What `commit` returns; it is called again once this machine's clock has passed the date of the parent snapshot.

    Raises ClockSkew when that would take more than PATIENCE seconds, or the storage's clock is too far away.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return commit()
        except icechunk.IcechunkError as error:
            text = " ".join(word for word in str(error).split() if word != "|")  # it breaks lines anywhere
            if drifted := DRIFTED.search(text):
                raise ClockSkew(_drifted(place, *drifted.groups())) from error
            order = BEHIND.search(text)
            if order is None:
                raise
            wait = max(0.0, _seconds(*order.groups())) + TICK
            if time.monotonic() + wait > deadline:
                raise ClockSkew(_behind(place, *order.groups())) from error
            time.sleep(wait)


def _drifted(place: str, ours: str, theirs: str) -> str:
    return (
        f"this machine's clock says {ours} UTC, the storage of {place} says {theirs} UTC: more than the 600 s that "
        "may lie between, so nothing was written; set the clock (NTP) and do it again."
    )


def _behind(place: str, parent: str, ours: str) -> str:
    return (
        f"{place} was last written at {parent} UTC by a clock {_seconds(parent, ours):.0f} s ahead of this machine's, "
        f"which says {ours} UTC; nothing was written. Set both clocks (NTP) and do it again; until then, writing "
        f"works here from {parent} UTC on."
    )


def _seconds(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later[:26]) - datetime.fromisoformat(earlier[:26])).total_seconds()
