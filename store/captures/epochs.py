"""One pass over rows in a random order that is drawn from a seed, with a bounded number of rows in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trimtab.store.captures.rows import Slot


@dataclass(frozen=True)
class Epoch:
    """How the rows of one epoch are shuffled and divided.

    size: rows of a batch.
    seed: of the order.
    buffer_rows: rows in memory, among which the next ones are drawn.
    part, of: which of how many parts is meant, when several workers share the epoch.
    """

    size: int
    seed: int = 0
    buffer_rows: int = 65536
    part: int = 0
    of: int = 1

    @property
    def rng(self) -> np.random.Generator:
        """A new generator for the order of this part."""
        return np.random.default_rng((self.seed, self.part))

    def own_rows(self, rows: np.ndarray, chunk_rows: int) -> np.ndarray:
        """Those of `rows` (ascending numbers) that belong to this part: all of every `of`-th chunk, in an order of
        chunks drawn from the seed."""
        if self.of == 1:
            return rows
        chunk = rows // chunk_rows
        numbers = np.unique(chunk)
        part = np.random.default_rng(self.seed).permutation(len(numbers)) % self.of
        return np.asarray(rows[part[np.searchsorted(numbers, chunk)] == self.part])


def shuffled_batches(
    chunks: Iterator[np.ndarray], slot: Slot, n_rows: int, epoch: Epoch, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Every row of `chunks` (stored values) once, in random order, as float32 batches [<= size, ...].

    Chunks fill a buffer; whenever it holds `buffer_rows` rows, a random half of them leaves as batches.
    n_rows: rows of all chunks together.
    """
    room = min(n_rows, epoch.buffer_rows + slot.spec.chunk_rows)
    buffer, count = np.empty((room, *slot.stored_shape), slot.spec.stored_dtype), 0
    for values in chunks:
        buffer[count : count + len(values)] = values
        count += len(values)
        while count >= max(1, epoch.buffer_rows):  # more than once where chunks are large beside the buffer
            drawn = rng.permutation(count)[: max(epoch.size, count // 2) // epoch.size * epoch.size]
            yield from _batches(buffer, drawn, epoch.size, slot)
            count = _close_gaps(buffer, drawn, count)
    yield from _batches(buffer, rng.permutation(count), epoch.size, slot)


def _batches(buffer: np.ndarray, rows: np.ndarray, size: int, slot: Slot) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield slot.decode(buffer[rows[start : start + size]], "float32")


def _close_gaps(buffer: np.ndarray, drawn: np.ndarray, count: int) -> int:
    """Move the last rows that were not drawn into the places of drawn ones; returns how many rows remain."""
    remaining = count - len(drawn)
    stays = np.ones(count, dtype=bool)
    stays[drawn] = False
    buffer[np.flatnonzero(~stays[:remaining])] = buffer[remaining + np.flatnonzero(stays[remaining:])]
    return remaining
