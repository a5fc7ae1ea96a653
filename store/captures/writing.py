"""Rows into chunks: region buffers, and one commit for any number of finished regions.

How serial and parallel writing give the same bytes: whoever writes a region (this process, a fork, a
process on another machine) writes only the chunks that lie wholly inside the region, and hands the
rows on its two edges over as *fragments*. The committer lays the fragments into the boundary chunks at the
tip of the branch, together with the regions' digests, in one commit; if somebody else committed first, it
starts again from the new tip. So boundary chunks have one writer at a time, and full chunks only ever one.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import icechunk
import numpy as np
import zarr

from trimtab.store.captures.blocks import BLOCK, encode, errors, scales_of
from trimtab.store.captures.chunks import Piece, patch_chunks, whole_chunks
from trimtab.store.captures.schema import ArraySpec, Region
from trimtab.store.digests import array_bytes
from trimtab.store.errors import Conflict, Invalid, Mismatch, NotFound
from trimtab.store.location import BRANCH, Location, sound

TRIES = 100
LARGEST = {
    "int8": 127 * 65504.0,
    "float16": 65504.0,
    "float32": float(np.finfo(np.float32).max),
    "bfloat16": 3.3895313892515355e38,
}
EXPONENT = {"float16": 0x7C00, "float32": 0x7F800000, "bfloat16": 0x7F80}


class RegionBuffer:
    """The rows of one region in memory, each site [rows of the region, ...], to be filled in any order."""

    def __init__(self, region: Region, specs: Sequence[ArraySpec]) -> None:
        self.region = region
        self.specs = {spec.name: spec for spec in specs}
        self.arrays = {s.name: np.empty((region.n_rows, *s.stored_shape), s.stored_dtype) for s in specs}
        self.errors = {s.name: np.zeros((region.n_rows, 2)) for s in specs if s.dtype == "int8"}
        self._written = {spec.name: np.zeros(region.n_rows, dtype=np.uint8) for spec in specs}

    def write(self, site: str, rows: slice | int | np.ndarray, array: np.ndarray) -> None:
        """Put `array` [n, ...] at `rows`: a slice of the capture's rows, the first row's number, or n row numbers.

        bfloat16 sites take their bits as uint16, or any float (rounded to nearest even).
        Raises NotFound (site), Mismatch (shape, rows outside the region or twice), Invalid (not finite).
        """
        spec = self._spec(site)
        array = np.asarray(array)
        if isinstance(rows, (int, np.integer)):
            rows = slice(int(rows), int(rows) + len(array))
        here = self._place(spec, rows, array)
        values = to_stored(array, spec)
        _refuse_non_finite(values, array, spec, rows)
        if spec.dtype == "int8":
            self.errors[site][here] = errors(array, values)
        if self._written[site][here].any():
            raise Mismatch(f"{site}: {_range(rows)} were written before; every row is written exactly once.")
        self.arrays[site][here] = values
        self._written[site][here] = 1

    def _spec(self, site: str) -> ArraySpec:
        if site not in self.specs:
            raise NotFound(f"site {site!r} is not in this capture; it holds {', '.join(self.specs)}.")
        return self.specs[site]

    def _place(self, spec: ArraySpec, rows: slice | np.ndarray, array: np.ndarray) -> slice | np.ndarray:
        """The same rows, counted from the region's first."""
        region = self.region
        many = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        if array.shape != (many, *spec.shape):
            raise Mismatch(f"{spec.name}: {_range(rows)} need shape {(many, *spec.shape)}, got {array.shape}.")
        start, stop = (rows.start, rows.stop) if isinstance(rows, slice) else _bounds(rows, region)
        if start < region.row_start or stop > region.row_stop:
            raise Mismatch(
                f"{spec.name}: {_range(rows)} leave region {region.number}, "
                f"which has rows {region.row_start}..{region.row_stop}."
            )
        if isinstance(rows, slice):
            return slice(start - region.row_start, stop - region.row_start)
        return rows - region.row_start

    def check_full(self) -> None:
        """Raises Mismatch when a row of any site is missing."""
        for site, written in self._written.items():
            missing = np.flatnonzero(written == 0)
            if len(missing):
                first = int(missing[0]) + self.region.row_start
                raise Mismatch(
                    f"{site}: {len(missing)} of {len(written)} rows of region {self.region.number} were not "
                    f"written (first: row {first}); nothing of the region is kept."
                )


def _bounds(rows: np.ndarray, region: Region) -> tuple[int, int]:
    return (int(rows.min()), int(rows.max()) + 1) if len(rows) else (region.row_start, region.row_start)


def _range(rows: slice | np.ndarray) -> str:
    """Rows, for messages."""
    if isinstance(rows, slice):
        return f"rows {rows.start}..{rows.stop}"
    return f"{len(rows)} rows from {rows.min()} to {rows.max()}" if len(rows) else "0 rows"


def to_stored(array: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """`array` in the dtype on disk; float values for a bfloat16 site are rounded to nearest even."""
    if spec.dtype == "int8" and np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore", invalid="ignore"):
            return encode(array)
    if spec.dtype != "bfloat16":
        if not np.issubdtype(array.dtype, np.floating):
            raise Invalid(f"{spec.name}: stores {spec.dtype}, got {array.dtype}; give floats.")
        with np.errstate(over="ignore"):
            return array.astype(spec.stored_dtype, copy=False)
    if array.dtype == np.uint16:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise Invalid(f"{spec.name}: stores bfloat16, got {array.dtype}; give its bits as uint16, or floats.")
    return bfloat16_bits(array)


def bfloat16_bits(array: np.ndarray) -> np.ndarray:
    """uint16 bits of floats rounded to the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, np.uint16(0x7FC0), rounded)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 values of bfloat16 bits (exact)."""
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


def finite(stored: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """Elementwise: is this stored value finite? (By its exponent's bits: five times np.isfinite's speed.)"""
    if spec.dtype == "int8":
        return np.isfinite(scales_of(stored, spec.shape[-1]))
    bits, exponent = _exponents(stored, spec)
    return np.bitwise_and(bits, exponent) != exponent


def all_finite(stored: np.ndarray, spec: ArraySpec) -> bool:
    """Are all stored values finite? (The largest exponent tells, in two thirds of the time of `finite`.)"""
    if spec.dtype == "int8" or not stored.size:
        return bool(finite(stored, spec).all())
    bits, exponent = _exponents(stored, spec)
    return bool(np.bitwise_and(bits, exponent).max() < exponent)


def _exponents(stored: np.ndarray, spec: ArraySpec) -> tuple[np.ndarray, np.unsignedinteger]:
    """The bits of floats, and those of an exponent that only infinities and NaN have."""
    kind = np.uint32 if spec.dtype == "float32" else np.uint16
    return stored.view(kind), kind(EXPONENT[spec.dtype])


def _refuse_non_finite(stored: np.ndarray, given: np.ndarray, spec: ArraySpec, rows: slice | np.ndarray) -> None:
    if all_finite(stored, spec):
        return
    ok = finite(stored, spec)
    place = np.argwhere(~ok)[0]
    value = given[tuple(place)] if spec.dtype != "int8" else _worst(given[tuple(place[:-1])], int(place[-1]))
    if given.dtype == np.uint16:
        value = from_bfloat16(value.reshape(1))[0]
    wider = {"float16": "bfloat16 or float32"}.get(spec.dtype, "float32")
    cure = f"collect with dtype {wider}" if np.isfinite(value) else "run the model in float32, or leave the prompt out"
    at = tuple(int(i) for i in place[1:])
    most = LARGEST[spec.dtype]
    row = rows.start + int(place[0]) if isinstance(rows, slice) else int(rows[place[0]])
    raise Invalid(
        f"{spec.name}: row {row} holds {float(value):g} at {at}, and {spec.dtype} holds "
        f"finite values up to {most:g} only ({(~ok).sum()} such values in this write). "
        f"Nothing of this region is kept; {cure}."
    )


def _worst(row: np.ndarray, block: int) -> np.floating:
    """The value that a block of int8 cannot hold."""
    values = row[block * BLOCK : (block + 1) * BLOCK]
    broken = values[~np.isfinite(values)]
    return broken[0] if len(broken) else values[np.abs(values).argmax()]


@dataclass
class RegionResult:
    """A written, not yet committed region: what the committer still has to do.

    fragments: rows for chunks that are shared with neighbours.  digests: uint8 [site, 32].  errors: float64 [site, 2],
    summed in the order of the rows, so that it does not depend on the order of writing.
    """

    number: int
    fragments: list[Piece]
    digests: np.ndarray
    errors: np.ndarray


def owned(region: Region, rows: int, total: int) -> tuple[int, int]:
    """The rows of a region that fill whole chunks of `rows` rows: first and last (equal when there is none).

    The chunk at the end of an array of `total` rows counts as whole.
    """
    first = -(-region.row_start // rows) * rows
    last = region.row_stop if region.row_stop == total else region.row_stop // rows * rows
    return (first, last) if first < last else (region.row_stop, region.row_stop)


def write_region(store: icechunk.IcechunkStore | None, buffer: RegionBuffer, total: int) -> RegionResult:
    """Write the chunks that the region owns into an open session's store; hash meanwhile on a second thread.

    total: rows of the whole capture. Without a store nothing is written: all rows become fragments.
    """
    whole, fragments = [], []
    for spec in buffer.specs.values():
        inner, edges = _split(buffer, spec, total if store else None)
        whole += inner
        fragments += edges
    with ThreadPoolExecutor(1) as hasher:
        digests = hasher.map(_sha256, buffer.arrays.values())
        if store is not None:
            whole_chunks(store, whole)
        table = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    sums = [buffer.errors[name].sum(axis=0) if name in buffer.errors else np.zeros(2) for name in buffer.arrays]
    return RegionResult(buffer.region.number, fragments, table, np.stack(sums))


def _sha256(array: np.ndarray) -> bytes:
    return hashlib.sha256(array_bytes(array)).digest()


def _split(buffer: RegionBuffer, spec: ArraySpec, total: int | None) -> tuple[list[Piece], list[Piece]]:
    """The rows of one site that fill chunks, and those on the edges."""
    region, values = buffer.region, buffer.arrays[spec.name]
    nothing = (region.row_stop, region.row_stop)
    first, last = nothing if total is None else owned(region, spec.chunk_rows, total)
    cuts = [(first, last), (region.row_start, first), (last, region.row_stop)]
    pieces = [(spec, a, values[a - region.row_start : b - region.row_start]) for a, b in cuts]
    return [piece for piece in pieces[:1] if len(piece[2])], [piece for piece in pieces[1:] if len(piece[2])]


@dataclass(frozen=True)
class Written:
    """Regions on their way into a store: what is to be committed, and the sessions that hold their whole chunks.

    total: rows of the whole capture.
    """

    results: Sequence[RegionResult]
    forks: Sequence[icechunk.ForkSession]
    total: int

    @property
    def message(self) -> str:
        numbers = sorted(result.number for result in self.results)
        return f"regions {', '.join(map(str, numbers[:8]))}{' ...' if len(numbers) > 8 else ''}"

    def lay_into(self, session: icechunk.Session) -> None:
        """Put every chunk into a session."""
        session.merge(*self.forks)
        patch_chunks(session.store, [piece for result in self.results for piece in result.fragments], self.total)


def commit_regions(place: tuple[Location, icechunk.Repository], written: Written) -> str:
    """Make finished regions visible in one commit; returns the snapshot id.

    A region that is there already with the same rows is no error (a retried worker); with other rows it is.
    Raises Mismatch for that, Conflict after 100 lost races.
    """
    location, repository = place
    for _ in range(TRIES):
        with location.lock():
            session = sound(repository.writable_session(BRANCH))
            digests = zarr.open_array(session.store, path="regions/digest", mode="r+")
            if not _enter_digests(location, digests, written.results):
                return session.snapshot_id
            _enter_errors(session.store, written.results)
            written.lay_into(session)
            try:
                return session.commit(written.message, {"regions": sorted(result.number for result in written.results)})
            except icechunk.ConflictError:
                continue  # the tip moved: lay the fragments into the new one
    raise Conflict(f"{location.url}: others committed first {TRIES} times in a row; use fewer writers.")


def rewrite_regions(place: tuple[Location, icechunk.Repository], written: Written) -> str:
    """Write damaged regions anew, all in one commit (they may share chunks); returns the snapshot id.

    Raises Mismatch, and changes nothing, when the rows are not those that were recorded.
    """
    location, repository = place
    with location.lock():
        session = sound(repository.writable_session(BRANCH))
        digests = zarr.open_array(session.store, path="regions/digest", mode="r")
        for result in written.results:
            if not np.array_equal(np.asarray(digests[result.number]), result.digests):
                raise Mismatch(
                    f"{location.url}: region {result.number}, collected again, has other rows than were recorded; "
                    f"nothing was changed. Repair it on the machine, and with the libraries, that collected it."
                )
        written.lay_into(session)
        return location.commit(session, f"{written.message}, repaired")


def _enter_digests(location: Location, digests: zarr.Array, results: Sequence[RegionResult]) -> bool:
    """Note the regions as done; False when all of them were, with the same rows."""
    new = False
    for result in results:
        before = np.asarray(digests[result.number])
        if not before.any():
            digests[result.number] = result.digests
            new = True
        elif not np.array_equal(before, result.digests):
            raise Mismatch(
                f"{location.url}: region {result.number} was written before, with other rows; nothing was "
                "merged. Two runs that should be equal are not: check seeds, threads and dtype."
            )
    return new


def _enter_errors(store: icechunk.IcechunkStore, results: Sequence[RegionResult]) -> None:
    """What int8 cost, where anything is stored so."""
    if not any(result.errors.any() for result in results):
        return
    array = zarr.open_array(store, path="regions/error", mode="r+")
    for result in results:
        array[result.number] = result.errors
