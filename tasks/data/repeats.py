"""Repeated rows of a file, found in 16 bytes of memory a row: files have millions."""

import hashlib

import numpy as np

FOLD = 2**16


class Repeats:
    """Where each content stood first, by a 64-bit digest of it. That two of a hundred million contents share one has a
    chance of 0.03%.

    The newest lie in a dictionary; every 65536 of them become a sorted run, and runs of like length are merged.
    """

    def __init__(self, fold: int = FOLD) -> None:
        self._fold = fold
        self._new: dict[int, int] = {}
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # digests (sorted) and places

    def before(self, content: bytes, place: int) -> int | None:
        """The place of the same content when it came before; otherwise None, and it is noted with this place."""
        digest = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
        first = self._new.get(digest)
        for digests, places in self._runs if first is None else ():
            at = int(np.searchsorted(digests, np.uint64(digest)))
            if at < len(digests) and int(digests[at]) == digest:
                return int(places[at])
        if first is None:
            self._new[digest] = place
            if len(self._new) >= self._fold:
                self._fold_up()
        return first

    def _fold_up(self) -> None:
        digests = np.fromiter(self._new.keys(), np.uint64, len(self._new))
        places = np.fromiter(self._new.values(), np.int64, len(self._new))
        self._new = {}
        self._runs.append(_sorted(digests, places))
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) > len(self._runs[-2][0]):
            last, previous = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted(*(np.concatenate(both) for both in zip(previous, last, strict=True))))


def _sorted(digests: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(digests, kind="stable")
    return digests[order], places[order]
