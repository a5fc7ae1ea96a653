"""Named arrays in one flat uint8 array, so that a version of a product is one node of the catalog.

Sixty arrays per version as sixty nodes made a publish take 2 s after 1000 versions (Icechunk writes all nodes
of the repository at each commit); as one node it takes 0.04 s after 2000.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import zarr

from trimtab.store.digests import JSON, array_bytes, array_digest
from trimtab.store.errors import Corrupt, Invalid, nearest

CHUNK_BYTES = 4 * 2**20
KINDS = "biuf"  # bool, int, unsigned, float: nothing that needs pickle
DTYPE = re.compile(rf"[<|][{KINDS}][0-9]{{1,2}}")  # as numpy writes them: "<f4", "|u1"


@dataclass(frozen=True)
class Entry:
    """Where one array lies in the payload, and what it is. start, nbytes: bytes. shape: of the array."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int
    sha256: str

    def as_json(self) -> dict[str, JSON]:
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "start": self.start,
            "nbytes": self.nbytes,
            "sha256": self.sha256,
        }

    @staticmethod
    def from_json(value: JSON) -> "Entry":
        """Raises Invalid for what `pack` does not make."""
        try:
            entry = Entry(value["dtype"], tuple(value["shape"]), value["start"], value["nbytes"], value["sha256"])
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


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Entry], np.ndarray]:
    """Entries by name (sorted) and the payload [bytes]. Raises Invalid for objects, text or dates."""
    entries: dict[str, Entry] = {}
    pieces, start = [], 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.kind not in KINDS:
            raise Invalid(f"array {name!r} has dtype {array.dtype}; only bool, int and float arrays are kept.")
        dtype = array.dtype.newbyteorder("<").str
        entries[name] = Entry(dtype, array.shape, start, array.nbytes, array_digest(array))
        pieces.append(np.frombuffer(array_bytes(array), np.uint8))
        start += array.nbytes
    return entries, np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)


class LazyArrays(Mapping[str, np.ndarray]):
    """name -> array, each read when it is asked for (and checked against its digest, which costs little)."""

    def __init__(self, entries: Mapping[str, Entry], payload: Callable[[], zarr.Array]) -> None:
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

    def _bytes(self, name: str, entry: Entry) -> np.ndarray:
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

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return dict, (dict(self.items()),)  # what travels to another process is plain arrays

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values())
