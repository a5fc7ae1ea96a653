"""Chunks of site arrays straight to and from an Icechunk session, as the bytes that Zarr itself would write.

Why not through zarr's arrays: for whole chunks of plain bytes its pipeline costs 5 to 8 times the write
itself, and opening sixty arrays per region as much again. Zarr and xarray read it like any other array.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import icechunk
import numpy as np
from google_crc32c import value as crc32c
from numcodecs import blosc
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from trimtab.store.captures.schema import ArraySpec
from trimtab.store.errors import Corrupt
from trimtab.store.sessions import one_line

AT_ONCE = 4
CHECKSUM_BYTES = 4
BLOCK_BYTES = 2**20  # Blosc's automatic block size loses most of the gain (1.25 instead of 1.44 for bfloat16)

Key = TypeVar("Key")
Value = TypeVar("Value")
ChunkRows = tuple[ArraySpec, int, np.ndarray]  # spec, first row, rows [n, ...] in the stored dtype


def whole_chunks(store: icechunk.IcechunkStore, pieces: Iterable[ChunkRows]) -> None:
    """Write pieces that begin at the first row of a chunk, and end at the last row of one or of the array."""
    blocks = []
    for spec, start, rows in pieces:
        step = spec.chunk_rows
        blocks += [(spec, (start + i) // step, rows[i : i + step]) for i in range(0, len(rows), step)]
    sync(_each(_put(store, *block) for block in blocks))


def patch_chunks(store: icechunk.IcechunkStore, pieces: Iterable[ChunkRows], total: int) -> None:
    """Write rows into chunks that keep their other rows. total: rows of the whole array.

    Raises ValueError or an Icechunk error when a chunk that keeps rows cannot be read.
    """
    edits = defaultdict(list)
    for spec, start, rows in pieces:
        step, done = spec.chunk_rows, 0
        while done < len(rows):
            number, inside = divmod(start + done, step)
            part = rows[done : done + step - inside]
            edits[spec.name, number].append((spec, inside, part))
            done += len(part)
    sync(_each(_patch(store, number, parts, total) for (_, number), parts in edits.items()))


def read_chunks(store: icechunk.IcechunkStore, spec: ArraySpec, numbers: Sequence[int]) -> list[np.ndarray]:
    """Chunks by number, each [chunk rows, ...] in the stored dtype; the last one has rows behind the array's end.

    Raises DamagedChunk when one is missing or cannot be read (a chunk of zeros is written like any other).
    """
    return sync(_each(_read(store, spec, int(number)) for number in numbers))


def ahead(read: Callable[[Key], Value], keys: Sequence[Key]) -> Iterator[Value]:
    """read(key) for every key in order; a second thread reads the next one while the caller works with this one."""
    if len(keys) < 2:
        yield from map(read, keys)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        coming = thread.submit(read, keys[0])
        for key in keys[1:]:
            value, coming = coming.result(), thread.submit(read, key)
            yield value
        yield coming.result()


async def _each(steps: Iterable[Coroutine[Any, Any, Value]]) -> list[Value]:
    """The results of all steps, of which AT_ONCE run at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(step: Coroutine[Any, Any, Value]) -> Value:
        async with limit:
            return await step

    return await asyncio.gather(*(one(step) for step in steps))


def _key(spec: ArraySpec, number: int) -> str:
    return f"{spec.name}/c/{number}" + "/0" * len(spec.shape)


async def _put(store: icechunk.IcechunkStore, spec: ArraySpec, number: int, rows: np.ndarray) -> None:
    if len(rows) < spec.chunk_rows:  # the array's last chunk is stored whole
        padded = np.zeros((spec.chunk_rows, *spec.stored_shape), spec.stored_dtype)
        padded[: len(rows)] = rows
        rows = padded
    raw = await asyncio.to_thread(_encode, spec, rows)
    await store.set(_key(spec, number), default_buffer_prototype().buffer.from_array_like(raw))


class DamagedChunk(Corrupt):
    """A chunk that is missing, cannot be read, or is not what was written.

    site: its array.  number: of the chunk.  wrong: what is wrong with it, as the end of a sentence.
    """

    def __init__(self, site: str, number: int, wrong: str) -> None:
        super().__init__(f"{site}: chunk {number} {wrong}")
        self.site, self.number, self.wrong = site, number, wrong

    def __reduce__(self) -> tuple[type["DamagedChunk"], tuple[str, int, str]]:
        return DamagedChunk, (self.site, self.number, self.wrong)


async def _read(store: icechunk.IcechunkStore, spec: ArraySpec, number: int) -> np.ndarray:
    try:
        block = await _get(store, spec, number)
    except (icechunk.IcechunkError, ValueError, RuntimeError) as error:  # storage, checksum, shape, decompression
        raise DamagedChunk(spec.name, number, f"cannot be read ({one_line(error)})") from error
    if block is None:
        raise DamagedChunk(spec.name, number, "is missing")
    return block


async def _get(store: icechunk.IcechunkStore, spec: ArraySpec, number: int) -> np.ndarray | None:
    content = await store.get(_key(spec, number), default_buffer_prototype())
    if content is None:
        await store.exists(_key(spec, number))  # `get` hides some storage errors as "not there"; this raises them
        return None
    raw = np.asarray(content.as_numpy_array())
    if spec.checksum:
        raw = _checked(raw)
    if spec.codec == "small":
        raw = np.frombuffer(await asyncio.to_thread(blosc.decompress, raw), np.uint8)
    return raw.view(spec.stored_dtype).reshape(spec.chunk_rows, *spec.stored_shape)


async def _patch(store: icechunk.IcechunkStore, number: int, parts: Sequence[ChunkRows], total: int) -> None:
    spec = parts[0][0]
    whole = min(spec.chunk_rows, total - number * spec.chunk_rows)
    covered = sum(len(part) for _, _, part in parts) == whole  # then no row stays, and the chunk may be damaged
    before = None if covered else await _get(store, spec, number)
    block = np.zeros((spec.chunk_rows, *spec.stored_shape), spec.stored_dtype) if before is None else before.copy()
    for _, inside, rows in parts:
        block[inside : inside + len(rows)] = rows
    await _put(store, spec, number, block)


def _encode(spec: ArraySpec, rows: np.ndarray) -> np.ndarray:
    raw = np.ascontiguousarray(rows).reshape(-1)
    if spec.codec == "small":
        raw = np.frombuffer(blosc.compress(raw, b"zstd", 1, blosc.SHUFFLE, BLOCK_BYTES), np.uint8)
    raw = raw.view(np.uint8)
    return np.concatenate([raw, _checksum(raw)]) if spec.checksum else raw


def _checked(raw: np.ndarray) -> np.ndarray:
    """A chunk's bytes without the checksum at their end. Raises ValueError when it is not theirs."""
    data, checksum = raw[:-CHECKSUM_BYTES], raw[-CHECKSUM_BYTES:]
    if not np.array_equal(_checksum(data), checksum):
        raise ValueError("its checksum is not that of what was written")
    return data


def _checksum(raw: np.ndarray) -> np.ndarray:
    """crc32c as four little-endian bytes: what Zarr's codec writes. (7 GB/s on one core, where sha256 does 0.8.)"""
    return np.frombuffer(crc32c(raw).to_bytes(CHECKSUM_BYTES, "little"), np.uint8)
