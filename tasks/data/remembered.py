"""Rows that were read, or texts that were tokenised, are kept for the rest of a run when they are few. The stages of a
run go through the same data: with this they are parsed once and tokenised once."""

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

LARGEST = 20_000  # items: about 25 MB of tokenised texts
WEIGHT = 2**22  # characters or tokens of them all
T = TypeVar("T")


class Remembered(Generic[T]):
    """The last two sequences that were gone through to their end and are within the bounds, by key.

    size: of an item, in characters or tokens. Longer sequences are produced anew each time, so that memory does not
    grow with the data.
    """

    def __init__(self, size: Callable[[T], int], largest: int = LARGEST, weight: int = WEIGHT) -> None:
        self._size, self._largest, self._weight = size, largest, weight
        self._sequences: dict[Hashable, tuple[T, ...]] = {}

    def each(self, key: Hashable, produce: Callable[[], Iterator[T]]) -> Iterator[T]:
        """The items of `produce()`, one at a time, or those remembered under this key."""
        sequence = self._sequences.get(key)
        return iter(sequence) if sequence is not None else self._noting(key, produce())

    def _noting(self, key: Hashable, items: Iterator[T]) -> Iterator[T]:
        few: list[T] | None = []
        weight = 0
        for item in items:
            if few is not None:
                few.append(item)
                weight += self._size(item)
                if len(few) > self._largest or weight > self._weight:
                    few = None
            yield item
        if few is not None:
            newest = list(self._sequences.items())[-1:]
            self._sequences = dict([*newest, (key, tuple(few))])
