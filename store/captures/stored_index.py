"""Token indices that may be larger than memory: the index of a store, and one that grows on disk while texts come in.

Both have the digest of the TokenIndex with the same arrays.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr

from trimtab.store.captures.index import INDEX_PROMPT, INDEX_ROW, Index, RowIndex, TokenIndex
from trimtab.store.errors import Corrupt

PIECE = 2**19  # values: also the chunk of every index array, so that a piece fills a chunk


def read_checked(array: "zarr.Array[Any]", rows: slice) -> np.ndarray:
    """Values of an array with checksums. Raises Corrupt when a chunk is missing or is not what was written."""
    try:
        return np.asarray(array[rows])
    except (ValueError, RuntimeError, icechunk.IcechunkError) as error:  # checksum, decompression, storage
        raise Corrupt(
            f"{array.path} of this capture is damaged ({' '.join(str(error).split())[:200]}); `trimtab repair`."
        ) from error


def array_at(root: zarr.Group, path: str) -> "zarr.Array[Any]":
    """The array at a path of a group. Raises KeyError when there is none."""
    node = root[path]
    if not isinstance(node, zarr.Array):
        raise KeyError(path)
    return node


class StoredIndex(RowIndex):
    """The index of a store, with the attributes of TokenIndex. Each array is read when it is first used, then kept.

    Raises KeyError when the store lacks one of the arrays; reading one raises Corrupt when it is damaged.
    """

    def __init__(self, root: zarr.Group) -> None:
        self._arrays = {name: array_at(root, name) for name in ("offsets", *INDEX_ROW, *INDEX_PROMPT)}
        self._splits = np.asarray(self._arrays["split"].attrs["names"], dtype=np.str_)

    @property
    def n_rows(self) -> int:
        """Rows of the capture."""
        return int(self._arrays["token_id"].shape[0])

    @property
    def n_prompts(self) -> int:
        """Prompts of the capture."""
        return int(self._arrays["label"].shape[0])

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The array in pieces of PIECE values."""
        array = self._arrays[name]
        for start in range(0, array.shape[0], PIECE):
            values = read_checked(array, slice(start, start + PIECE))
            yield self._splits[values] if name == "split" else values

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("_") or name not in self._arrays:
            raise AttributeError(name)
        values = read_checked(self._arrays[name], slice(None))
        values = self._splits[values] if name == "split" else values
        values.flags.writeable = False
        self.__dict__[name] = values
        return values


class Column:
    """An array [n] that grows in a temporary file without a name, so that a killed process leaves nothing behind."""

    def __init__(self, dtype: "np.dtype[Any] | type", folder: Path | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (lives as long as the column)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, values: np.ndarray) -> None:
        """Add values [n] at the end."""
        raw = np.ascontiguousarray(values, dtype=self.dtype)
        self._file.write(raw.tobytes())
        self._length += len(raw)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Values start..stop."""
        self._file.flush()
        size = self.dtype.itemsize
        raw = os.pread(self._file.fileno(), (stop - start) * size, start * size)
        return np.frombuffer(raw, self.dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """All values, in pieces of PIECE."""
        for start in range(0, self._length, PIECE):
            yield self.read(start, min(self._length, start + PIECE))


class GrowingIndex(Index):
    """An index on disk that is extended block after block of prompts.

    folder: where its temporary files lie; the system's temporary folder by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        dtypes = {"offsets": np.int64} | INDEX_ROW | INDEX_PROMPT | {"split": np.uint16}
        self._columns = {name: Column(dtype, folder) for name, dtype in dtypes.items()}
        self._columns["offsets"].append(np.zeros(1))
        self._splits: dict[str, int] = {}

    @property
    def n_rows(self) -> int:
        """Rows so far."""
        return len(self._columns["token_id"])

    @property
    def n_prompts(self) -> int:
        """Prompts so far."""
        return len(self._columns["label"])

    def extend(self, block: TokenIndex) -> None:
        """Add the prompts of `block` behind those that are there."""
        self._columns["offsets"].append(block.offsets[1:] + self.n_rows)
        for name in (*INDEX_ROW, "label", "pair"):
            self._columns[name].append(getattr(block, name))
        codes = [self._splits.setdefault(str(name), len(self._splits)) for name in block.split]
        self._columns["split"].append(np.asarray(codes))
        self.__dict__.pop("digest", None)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The array in pieces of PIECE values."""
        names = np.asarray(list(self._splits), dtype=np.str_)
        for piece in self._columns[name].pieces():
            yield names[piece] if name == "split" else piece

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Values start..stop of one of the arrays."""
        values = self._columns[name].read(start, stop)
        return np.asarray(list(self._splits), dtype=np.str_)[values] if name == "split" else values
