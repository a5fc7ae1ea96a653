"""Finished regions into the store: chunks, and one commit for any number of regions.

Why serial and parallel writing give the same bytes: whoever writes a region (this process, a fork, a process on another
machine) writes only the chunks that lie wholly inside the region, and hands over the rows on its two edges as
*fragments*. Whoever commits writes the fragments into the chunks that two regions share, at the tip of the branch,
together with the regions' digests, in one commit; if somebody else committed first, it starts again from the new tip.
So a shared chunk has one writer at a time, and every other chunk only ever one.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import icechunk
import numpy as np
import zarr

from trimtab.store.captures.buffer import RegionBuffer
from trimtab.store.captures.chunks import ChunkRows, patch_chunks, whole_chunks
from trimtab.store.captures.schema import ArraySpec, Region
from trimtab.store.digests import array_bytes
from trimtab.store.errors import Conflict, Mismatch
from trimtab.store.location import BRANCH, Location
from trimtab.store.sessions import sound

TRIES = 100


@dataclass
class RegionResult:
    """A region that is written and not yet committed: what the committer needs to know.

    number: of the region.
    fragments: rows for chunks that are shared with the regions beside it.
    digests: uint8 [site, 32], sha256 of each site's rows.
    errors: float64 [site, 2], squared error and squared values of int8 sites (zeros for others), summed in the order of
    the rows, so that the order of writing does not matter.
    """

    number: int
    fragments: list[ChunkRows]
    digests: np.ndarray
    errors: np.ndarray


def owned(region: Region, rows: int, total: int) -> tuple[int, int]:
    """(start, stop) of the rows of a region that fill whole chunks of `rows` rows; start = stop when there are none.

    total: rows of the array, whose last chunk counts as whole.
    """
    start = -(-region.row_start // rows) * rows
    stop = region.row_stop if region.row_stop == total else region.row_stop // rows * rows
    return (start, stop) if start < stop else (region.row_stop, region.row_stop)


def write_region(store: icechunk.IcechunkStore | None, buffer: RegionBuffer, total: int) -> RegionResult:
    """Write the chunks that lie wholly inside the region to `store`, while a second thread hashes the rows.

    total: rows of the whole capture. Without a store nothing is written, and all rows become fragments.
    """
    whole, fragments = [], []
    for spec in buffer.specs.values():
        inner, outer = _split(buffer, spec, total if store else None)
        whole += inner
        fragments += outer
    with ThreadPoolExecutor(1) as hasher:
        digests = hasher.map(_sha256, buffer.arrays.values())
        if store is not None:
            whole_chunks(store, whole)
        table = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    sums = [buffer.errors[name].sum(axis=0) if name in buffer.errors else np.zeros(2) for name in buffer.arrays]
    return RegionResult(buffer.region.number, fragments, table, np.stack(sums))


def _sha256(array: np.ndarray) -> bytes:
    return hashlib.sha256(array_bytes(array)).digest()


def _split(buffer: RegionBuffer, spec: ArraySpec, total: int | None) -> tuple[list[ChunkRows], list[ChunkRows]]:
    """The rows of one site that fill whole chunks, and those in chunks shared with other regions (all without
    total)."""
    region, values = buffer.region, buffer.arrays[spec.name]
    start, stop = (region.row_stop, region.row_stop) if total is None else owned(region, spec.chunk_rows, total)

    def pieces(*bounds: tuple[int, int]) -> list[ChunkRows]:
        return [(spec, a, values[a - region.row_start : b - region.row_start]) for a, b in bounds if a < b]

    return pieces((start, stop)), pieces((region.row_start, start), (stop, region.row_stop))


@dataclass
class Fork:
    """What a worker needs to write whole regions. It pickles: send it to the worker, and `merge` what comes back.

    specs: of every site.  n_rows: of the whole capture.  session: None for a store in memory, whose sessions cannot
    leave the process; all rows then travel as fragments.  results: one per region written through this fork.
    """

    specs: tuple[ArraySpec, ...]
    n_rows: int
    session: icechunk.ForkSession | None
    results: list[RegionResult] = field(default_factory=list)

    @contextlib.contextmanager
    def region_writer(self, region: Region) -> Iterator[RegionBuffer]:
        """As `ActivationStore.region_writer`, but nothing is visible before the merge."""
        buffer = RegionBuffer(region, self.specs)
        yield buffer
        self.write(buffer)

    def write(self, buffer: RegionBuffer) -> None:
        """Write a full buffer; nothing is visible before the merge. Raises Mismatch when a row is missing."""
        buffer.check_full()
        store = self.session.store if self.session else None
        self.results.append(write_region(store, buffer, self.n_rows))


@dataclass(frozen=True)
class Written:
    """Regions that are written and to be committed together.

    forks: the sessions that hold their whole chunks.  total: rows of the whole capture.
    """

    results: Sequence[RegionResult]
    forks: Sequence[icechunk.ForkSession]
    total: int

    @property
    def message(self) -> str:
        """The commit's message: the numbers of the first eight regions."""
        numbers = sorted(result.number for result in self.results)
        return f"regions {', '.join(map(str, numbers[:8]))}{' ...' if len(numbers) > 8 else ''}"

    def lay_into(self, session: icechunk.Session) -> None:
        """Add every chunk to a session."""
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


def _enter_digests(location: Location, digests: "zarr.Array[Any]", results: Sequence[RegionResult]) -> bool:
    """Record the digests of the regions; False when all of them were recorded before, with the same rows.

    Raises Mismatch when one was recorded with other rows.
    """
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
    """Record the squared errors of int8 sites, where there are such sites."""
    if not any(result.errors.any() for result in results):
        return
    array = zarr.open_array(store, path="regions/error", mode="r+")
    for result in results:
        array[result.number] = result.errors
