"""Named arrays in one flat uint8 array, so that a version of a product is one node of the catalog.

Sixty arrays per version as sixty nodes made a publish take 2 s after 1000 versions (Icechunk writes all nodes
of the repository at each commit); as one node it takes 0.04 s after 2000.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import zarr

from trimtab.store.digests import JSON, array_bytes, array_digest
from trimtab.store.errors import Corrupt, Invalid, nearest

CHUNK_BYTES = 4 * 2**20
KINDS = "biuf"  # bool, int, unsigned, float: nothing that needs pickle


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
    def from_json(value: Mapping) -> "Entry":
        return Entry(value["dtype"], tuple(value["shape"]), value["start"], value["nbytes"], value["sha256"])


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
        raw = np.ascontiguousarray(self._payload()[entry.start : entry.start + entry.nbytes])
        array = raw.view(entry.dtype).reshape(entry.shape)
        if array_digest(array) != entry.sha256:
            raise Corrupt(f"array {name!r} is not what was published: its sha256 differs; publish it again.")
        return array

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
