"""Named arrays in one flat uint8 array, so that a version of a product is one node of the catalog.

Why: Icechunk writes all nodes of the repository at each commit. With sixty arrays per version as sixty nodes, a publish
took 2 s after 1000 versions; with one node it takes 0.04 s after 2000.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from trimtab.store.digests import JSON, array_bytes, array_digest
from trimtab.store.errors import Corrupt, Invalid, nearest

CHUNK_BYTES = 4 * 2**20
KINDS = "biuf"  # bool, int, unsigned, float: nothing that needs pickle
DTYPE = re.compile(rf"[<|][{KINDS}][0-9]{{1,2}}")  # as numpy writes them: "<f4", "|u1"


@dataclass(frozen=True)
class ArrayEntry:
    """Where one array lies in the payload, and what it is.

    dtype: as numpy writes it, "<f4".  start, nbytes: in bytes.  sha256: of dtype, shape and bytes (hex).
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int
    sha256: str

    def as_json(self) -> dict[str, JSON]:
        """The fields as JSON, for the record."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "start": self.start,
            "nbytes": self.nbytes,
            "sha256": self.sha256,
        }

    @staticmethod
    def from_json(value: JSON) -> "ArrayEntry":
        """The inverse of `as_json`. Raises Invalid for an entry that `pack` cannot have returned."""
        try:
            entry = ArrayEntry(value["dtype"], tuple(value["shape"]), value["start"], value["nbytes"], value["sha256"])
            item = np.dtype(entry.dtype) if DTYPE.fullmatch(entry.dtype) else None
        except (KeyError, TypeError) as error:
            raise Invalid(f"an entry of its arrays is malformed ({type(error).__name__}: {error})") from None
        numbers = [*entry.shape, entry.start, entry.nbytes]
        if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers):
            raise Invalid("an entry of its arrays has sizes that are no sizes")
        if item is None or math.prod(entry.shape) * item.itemsize != entry.nbytes:
            raise Invalid(f"an entry of its arrays is not {entry.nbytes} bytes of {entry.dtype[:20]!r} {entry.shape}")
        if not isinstance(entry.sha256, str):
            raise Invalid("an entry of its arrays has no sha256")
        return entry


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, ArrayEntry], np.ndarray]:
    """Entries by name (sorted) and the payload, uint8 [bytes]. Raises Invalid for arrays of objects, text or dates."""
    entries: dict[str, ArrayEntry] = {}
    pieces, start = [], 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.kind not in KINDS:
            raise Invalid(f"array {name!r} has dtype {array.dtype}; only bool, int and float arrays are kept.")
        dtype = array.dtype.newbyteorder("<").str
        entries[name] = ArrayEntry(dtype, array.shape, start, array.nbytes, array_digest(array))
        pieces.append(np.frombuffer(array_bytes(array), np.uint8))
        start += array.nbytes
    return entries, np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)


class LazyArrays(Mapping[str, np.ndarray]):
    """name -> array, each read, and compared with its digest, at every access. Pickles as a dict of arrays.

    payload: opens the array that `pack` returned.
    Access raises KeyError for an unknown name and Corrupt for an array that is not what was published.
    """

    def __init__(self, entries: Mapping[str, ArrayEntry], payload: "Callable[[], zarr.Array[Any]]") -> None:
        self.entries = dict(entries)
        self._payload = payload

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.entries:
            raise KeyError(f"no array {name!r}: {nearest(name, self.entries)}")
        entry = self.entries[name]
        raw = self._bytes(name, entry)
        if len(raw) != entry.nbytes:
            raise Corrupt(f"array {name!r} is cut short: {len(raw)} of {entry.nbytes} bytes; publish it again.")
        array = raw.view(entry.dtype).reshape(entry.shape)
        if array_digest(array) != entry.sha256:
            raise Corrupt(f"array {name!r} is not what was published: its sha256 differs; publish it again.")
        return array

    def _bytes(self, name: str, entry: ArrayEntry) -> np.ndarray:
        try:
            return np.ascontiguousarray(self._payload()[entry.start : entry.start + entry.nbytes])
        except Exception as error:  # broken bytes may raise anything at all
            reason = " ".join(str(error).split())[:200]
            raise Corrupt(f"array {name!r} cannot be read ({reason}); publish it again.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<LazyArrays {', '.join(f'{n} {e.dtype}{list(e.shape)}' for n, e in self.entries.items())}>"

    def __reduce__(self) -> tuple[type[dict[str, np.ndarray]], tuple[dict[str, np.ndarray]]]:
        return dict, (dict(self.items()),)  # another process may not reach the repository

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(entry.nbytes for entry in self.entries.values())
