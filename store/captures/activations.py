"""The store of one capture: template first, then regions, each in one commit, then a seal.

    store = ActivationStore.create(location, capture, index, arrays)      # or re-opens the same capture
    for region in store.pending_regions():
        with store.region_writer(region) as writer:
            writer.write("resid_post.12", first_row, rows)                # any order, every row once
    store.finish()

Several processes may each run this loop over different regions. Where one process must do all commits, give
each worker a `store.fork()`, and `store.merge([...])` what comes back. All three ways give the same digest.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import icechunk
import numpy as np
import zarr
from zarr.core.sync import sync

from trimtab.store.captures.layout import COMPLETE, KEY, Layout, check_arrays, read_layout, write_template
from trimtab.store.captures.reader import Readable
from trimtab.store.captures.schema import (
    REGION_BYTES,
    ArraySpec,
    Capture,
    Index,
    Region,
    chunk_rows,
    region_edges,
)
from trimtab.store.captures.writing import (
    RegionBuffer,
    RegionResult,
    Written,
    commit_regions,
    rewrite_regions,
    write_region,
)
from trimtab.store.errors import Corrupt, Mismatch, StoreError
from trimtab.store.location import BRANCH, Location, readable, sound

TAG = "complete"


class ActivationStore(Readable):
    """Rows of activations of one capture, with their token index, at one location.

    Reading methods (`rows`, `pooled`, `contrast`, `batches`, `shuffled`, ...) are described in `Readable`.
    They see the snapshot that was newest when the store was opened, or that this object committed.
    """

    def __init__(self, location: Location, repository: icechunk.Repository) -> None:
        """Use `create` or `open`. Raises Corrupt when the repository holds no capture."""
        self.location = location
        self._repository = repository
        with readable(f"the store at {location.url}"):
            self._see(repository.lookup_branch(BRANCH))
            self.layout = read_layout(self._root)

    def _see(self, snapshot_id: str) -> None:
        self.snapshot_id = snapshot_id
        self._session = sound(self._repository.readonly_session(snapshot_id=snapshot_id))
        self._root = open_root(self._session.store)

    # ---- making and opening

    @staticmethod
    def create(
        location: Location | str,
        capture: Capture,
        index: Index,
        arrays: Sequence[ArraySpec],
        region_bytes: int = REGION_BYTES,
    ) -> "ActivationStore":
        """Lay out a capture (everything sized, nothing written), or re-open the same one to resume it.

        Raises Mismatch, naming what differs, when another capture lies there; StoreError when the disk is
        too small.
        """
        check_arrays(arrays, index)
        offsets = np.concatenate(list(index.pieces("offsets")))  # 8 bytes a prompt, for a moment
        edges = region_edges(offsets, sum(spec.row_bytes for spec in arrays), region_bytes)
        longest = int(np.diff(offsets[edges]).max())
        specs = tuple(replace(spec, chunk_rows=chunk_rows(spec, index.n_rows, longest)) for spec in arrays)
        return ActivationStore.lay_out(location, Layout(capture, index, specs, edges))

    @staticmethod
    def lay_out(location: Location | str, wanted: Layout) -> "ActivationStore":
        """`create` for a layout that is fixed already (an import keeps the regions of its source)."""
        place = Location.parse(location)
        if not place.exists():
            check_disk(place, needed_bytes(wanted))  # before anything is made
        with place.lock():
            repository = place.repository(create=True)
            place.touch()  # a collection that is begun again is not garbage, however old its last commit is
            if not _has_capture(repository):
                check_disk(place, needed_bytes(wanted))
                session = repository.writable_session(BRANCH)
                write_template(session.store, wanted)
                place.commit(session, "template", {"capture": wanted.capture.digest})
        store = ActivationStore(place, repository)
        store._check_same(wanted)
        pending = store.pending_regions()
        share = sum(region.n_rows for region in pending) / max(1, wanted.index.n_rows)
        check_disk(place, round(share * needed_bytes(wanted)))
        return store

    @staticmethod
    def open(location: Location | str) -> "ActivationStore":
        """Open what was collected. Raises NotFound when nothing is there, Corrupt when it is no capture."""
        place = Location.parse(location)
        repository = place.repository()
        if not _has_capture(repository):
            raise Corrupt(f"{place.url} holds no capture; name the folder that a collection wrote.")
        return ActivationStore(place, repository)

    def _check_same(self, wanted: Layout) -> None:
        if self.capture.digest != wanted.capture.digest:
            lines = "; ".join(self.capture.differences(wanted.capture))
            raise Mismatch(
                f"{self.location.url} holds another capture ({lines}; 'here' is what is stored): rows of two "
                "captures are never mixed; collect into another place, or delete this one."
            )
        wanted = wanted.stored_as(self.layout)
        mine = replace(self.layout, state=wanted.state, digest=wanted.digest).attributes()
        theirs = wanted.attributes()
        wrong = [name for name in theirs if mine[name] != theirs[name]]
        if not np.array_equal(self.layout.edges, wanted.edges):
            wrong.append("regions (another region_bytes)")
        if wrong:
            raise Mismatch(
                f"{self.location.url}: the same capture was asked for, but {', '.join(wrong)} differ from "
                "what is stored: the capture's fields leave something out; add it, or delete the store."
            )

    # ---- what it is

    @property
    def capture(self) -> Capture:
        """What was asked."""
        return self.layout.capture

    @property
    def sites(self) -> tuple[str, ...]:
        """The stored sites' names."""
        return self.layout.sites

    @property
    def complete(self) -> bool:
        """True once `finish` sealed it."""
        return self.layout.state == COMPLETE

    @property
    def n_rows(self) -> int:
        return self.layout.index.n_rows

    @property
    def n_prompts(self) -> int:
        return self.layout.index.n_prompts

    @property
    def nbytes(self) -> int:
        """Bytes of all site arrays before compression."""
        return self.layout.nbytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of all chunks in the repository (older snapshots' chunks included)."""
        return self._repository.total_chunks_storage()

    @property
    def digest(self) -> str:
        """Content digest over capture, index and every row. Raises StoreError before `finish`."""
        if self.layout.digest is None:
            missing, total = len(self.pending_regions()), len(self.layout.regions)
            raise StoreError(
                f"{self.location.url} is not complete ({missing} of {total} regions are missing), so it "
                "has no content digest yet; run the collection again to resume it."
            )
        return self.layout.digest

    def __repr__(self) -> str:
        state = "complete" if self.complete else "collecting"
        return f"<ActivationStore {self.location.url} {state}: {len(self.sites)} sites, {self.n_rows} rows>"

    # ---- writing

    def pending_regions(self) -> list[Region]:
        """The regions that nobody has committed yet (looks at the newest snapshot)."""
        session = self._repository.readonly_session(BRANCH)
        done = {coordinates[0] for coordinates in sync(_coordinates(session))}
        return [region for region in self.layout.regions if region.number not in done]

    @contextlib.contextmanager
    def region_writer(self, region: Region) -> Iterator[RegionBuffer]:
        """Fill the buffer inside the `with`; leaving it commits once, an exception keeps nothing."""
        buffer = self.buffer(region)
        yield buffer
        self.commit(buffer)

    def buffer(self, region: Region) -> RegionBuffer:
        """Memory for one region's rows, to be filled and given to `commit`."""
        return RegionBuffer(region, self.layout.specs)

    def commit(self, buffer: RegionBuffer) -> str:
        """Write a full buffer and commit it; returns the snapshot id. Raises Mismatch when a row is missing."""
        fork = self.fork()
        fork.write(buffer)
        return self.merge([fork])

    def fork(self) -> "Fork":
        """A picklable handle through which a worker writes whole regions, to be merged by `merge`."""
        if self.location.scheme == "memory":  # Icechunk forks lose sight of memory; the handle carries all rows
            return Fork(self.layout.specs, self.n_rows, None)
        fork = self._repository.writable_session(BRANCH).fork()
        return Fork(self.layout.specs, self.n_rows, fork)

    def merge(self, handles: "Sequence[Fork]") -> str:
        """Commit every region written through the handles, at once; returns the snapshot id.

        A region that is committed already is no error when its rows are the same (a retried worker).
        Raises Mismatch when they are not.
        """
        results = [result for handle in handles for result in handle.results]
        if not results:
            return self.snapshot_id
        forks = [handle.session for handle in handles if handle.results and handle.session]
        written = Written(results, forks, self.n_rows)
        self._see(commit_regions((self.location, self._repository), written))
        return self.snapshot_id

    def rewrite(self, handles: "Sequence[Fork]") -> str:
        """Put regions of a finished capture, collected again, in the place of damaged ones; returns the snapshot id.

        Raises Mismatch when their rows are not those that were recorded.
        """
        results = [result for handle in handles for result in handle.results]
        forks = [handle.session for handle in handles if handle.session]
        self._see(rewrite_regions((self.location, self._repository), Written(results, forks, self.n_rows)))
        return self.snapshot_id

    def finish(self) -> "ActivationStore":
        """Seal the capture: state complete, content digest recorded, tagged. A sealed one stays as it is.

        Raises StoreError when regions are missing.
        """
        pending = self.pending_regions()
        if pending:
            raise StoreError(
                f"{self.location.url}: {len(pending)} of {len(self.layout.regions)} regions are not written "
                f"yet (first: {pending[0].number}); write them before finishing."
            )
        with self.location.lock():
            self._see(self._repository.lookup_branch(BRANCH))
            self.layout = replace(read_layout(self._root), index=self.layout.index)  # the index never changes
            if not self.complete:
                self._seal()
            if TAG not in self._repository.list_tags():
                self._repository.create_tag(TAG, self.snapshot_id)
                self.location.flush(self.snapshot_id)
        return self

    def _seal(self) -> None:
        digest = self.layout.content_digest(self.region_digests())
        self.location.flush()  # regions were committed without: a power cut costs some of them, and no more
        session = self._repository.writable_session(BRANCH)
        sealed = replace(self.layout, state=COMPLETE, digest=digest)
        zarr.open_group(session.store, mode="r+").attrs[KEY] = sealed.attributes()
        self._see(self.location.commit(session, "complete", {"digest": digest}))
        self.layout = sealed


@dataclass
class Fork:
    """A worker's way into a store: write whole regions, send it back (it pickles), and merge it."""

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


def open_root(store: icechunk.IcechunkStore) -> zarr.Group:
    """The root group, read-only."""
    return zarr.open_group(store, mode="r")


def _has_capture(repository: icechunk.Repository) -> bool:
    try:
        with readable("the repository"):
            root = open_root(sound(repository.readonly_session(BRANCH)).store)
    except FileNotFoundError:
        return False  # the repository was made, and its maker killed before the template
    return KEY in root.attrs


def needed_bytes(layout: Layout) -> int:
    """Bytes that collecting writes at most (uncompressed): the rows, the index, and once more the chunks that two
    regions share, which are written twice."""
    edges = len(layout.edges) - 2
    shared = sum(edges * min(spec.chunk_rows, layout.index.n_rows) * spec.row_bytes for spec in layout.specs)
    return layout.nbytes + shared + 10 * layout.index.n_rows + 14 * layout.index.n_prompts


def check_disk(place: Location, wanted: int) -> None:
    """Raises StoreError when `wanted` bytes do not fit on the disk of a local folder."""
    free = place.free_bytes()
    if free is not None and wanted > free:
        raise StoreError(
            f"{place.url} has {free / 1e9:.1f} GB free, the capture needs {wanted / 1e9:.1f} GB: it cannot "
            "fit; take fewer sites or prompts, a pooled span, or a half-precision dtype."
        )


async def _coordinates(session: icechunk.Session) -> list[tuple[int, ...]]:
    return [coordinates async for coordinates in session.chunk_coordinates("/regions/digest")]
