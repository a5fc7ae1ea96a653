"""The store of one capture: a template of all arrays first, then the rows, region by region, then a seal.

    store = ActivationStore.create(location, capture, index, arrays)      # or re-opens the same capture
    for region in store.pending_regions():
        with store.region_writer(region) as writer:
            writer.write("resid_post.12", first_row, rows)                # any order, every row once
    store.finish()

Several processes may each run this loop over different regions. Where one process must make all commits, give each
worker a `store.fork()`, and `store.merge([...])` the forks that come back. All three ways give the same digest.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import icechunk
import numpy as np
import zarr
from zarr.core.sync import sync

from trimtab.store.captures.buffer import RegionBuffer
from trimtab.store.captures.index import Index
from trimtab.store.captures.layout import COMPLETE, KEY, CaptureLayout, check_arrays, read_layout, write_template
from trimtab.store.captures.reader import Readable
from trimtab.store.captures.schema import REGION_BYTES, ArraySpec, Capture, Region, chunk_rows, region_edges
from trimtab.store.captures.writing import Fork, Written, commit_regions, rewrite_regions
from trimtab.store.errors import Corrupt, Mismatch, StoreError
from trimtab.store.location import BRANCH, Location
from trimtab.store.sessions import readable, sound

TAG = "complete"  # of the snapshot that sealed a capture


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
        """Read from this snapshot from now on."""
        self.snapshot_id = snapshot_id
        self._session = sound(self._repository.readonly_session(snapshot_id=snapshot_id))
        self._root = open_root(self._session.store)

    # ---- creating and opening

    @staticmethod
    def create(
        location: Location | str,
        capture: Capture,
        index: Index,
        arrays: Sequence[ArraySpec],
        region_bytes: int = REGION_BYTES,
    ) -> "ActivationStore":
        """Create every array of a capture at its full size without rows, or open the same capture to resume it.

        capture: the settings.  index: rows and prompts.  arrays: one per site.  region_bytes: of rows in one region.
        Raises Invalid for no arrays or no rows; Mismatch, naming what differs, when another capture lies there;
        StoreError when the disk is too small.
        """
        check_arrays(arrays, index)
        offsets = np.concatenate(list(index.pieces("offsets")))  # 8 bytes a prompt, for a moment
        edges = region_edges(offsets, sum(spec.row_bytes for spec in arrays), region_bytes)
        longest = int(np.diff(offsets[edges]).max())
        specs = tuple(replace(spec, chunk_rows=chunk_rows(spec, index.n_rows, longest)) for spec in arrays)
        return ActivationStore.lay_out(location, CaptureLayout(capture, index, specs, edges))

    @staticmethod
    def lay_out(location: Location | str, layout: CaptureLayout) -> "ActivationStore":
        """`create` for a layout that is fixed already: an import keeps the regions of its source. Raises as
        `create`."""
        place = Location.parse(location)
        if not place.exists():
            check_disk(place, layout.bytes_to_write)  # before anything is created
        with place.lock():
            repository = place.repository(create=True)
            place.touch()  # a collection that is begun again is not garbage, however old its last commit is
            if not _has_capture(repository):
                check_disk(place, layout.bytes_to_write)
                session = repository.writable_session(BRANCH)
                write_template(session.store, layout)
                place.commit(session, "template", {"capture": layout.capture.digest})
        store = ActivationStore(place, repository)
        store._check_same(layout)
        pending = store.pending_regions()
        share = sum(region.n_rows for region in pending) / max(1, layout.index.n_rows)
        check_disk(place, round(share * layout.bytes_to_write))
        return store

    @staticmethod
    def open(location: Location | str) -> "ActivationStore":
        """Open a capture, finished or not. Raises NotFound when nothing is there, Corrupt when it is no capture."""
        place = Location.parse(location)
        repository = place.repository()
        if not _has_capture(repository):
            raise Corrupt(f"{place.url} holds no capture; name the folder that a collection wrote.")
        return ActivationStore(place, repository)

    def _check_same(self, layout: CaptureLayout) -> None:
        """Raises Mismatch when a capture of this layout is not the one that lies here."""
        if self.capture.digest != layout.capture.digest:
            lines = "; ".join(self.capture.differences(layout.capture))
            raise Mismatch(
                f"{self.location.url} holds another capture ({lines}; 'here' is what is stored): rows of two "
                "captures are never mixed; collect into another place, or delete this one."
            )
        layout = layout.stored_as(self.layout)
        here = replace(self.layout, state=layout.state, digest=layout.digest).attributes()
        there = layout.attributes()
        different = [name for name in there if here[name] != there[name]]
        if not np.array_equal(self.layout.edges, layout.edges):
            different.append("regions (another region_bytes)")
        if different:
            raise Mismatch(
                f"{self.location.url}: the same capture was asked for, but {', '.join(different)} differ from "
                "what is stored: the capture's fields leave something out; add it, or delete the store."
            )

    # ---- properties

    @property
    def capture(self) -> Capture:
        """The settings of the collection."""
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
        """Rows of each site."""
        return self.layout.index.n_rows

    @property
    def n_prompts(self) -> int:
        """Prompts of the capture."""
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
        """sha256 (hex) over settings, index and every row. Raises StoreError before `finish`."""
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
        """The regions that nobody has committed yet, in the newest snapshot."""
        session = self._repository.readonly_session(BRANCH)
        committed = {coordinates[0] for coordinates in sync(_coordinates(session))}
        return [region for region in self.layout.regions if region.number not in committed]

    @contextlib.contextmanager
    def region_writer(self, region: Region) -> Iterator[RegionBuffer]:
        """A buffer to fill inside the `with`, committed at its end; after an exception nothing of it is stored.

        Raises as `commit`.
        """
        buffer = self.buffer(region)
        yield buffer
        self.commit(buffer)

    def buffer(self, region: Region) -> RegionBuffer:
        """An empty buffer for one region's rows, to be filled and given to `commit`."""
        return RegionBuffer(region, self.layout.specs)

    def commit(self, buffer: RegionBuffer) -> str:
        """Write a full buffer and commit it; returns the snapshot id. Raises Mismatch when a row is missing, or when
        the region was committed before with other rows."""
        fork = self.fork()
        fork.write(buffer)
        return self.merge([fork])

    def fork(self) -> Fork:
        """What a worker needs to write whole regions; it pickles, and what comes back is for `merge`."""
        if self.location.scheme == "memory":  # Icechunk's forks cannot reach memory; this one carries all rows
            return Fork(self.layout.specs, self.n_rows, None)
        fork = self._repository.writable_session(BRANCH).fork()
        return Fork(self.layout.specs, self.n_rows, fork)

    def merge(self, forks: Sequence[Fork]) -> str:
        """Commit every region written through the forks, at once; returns the snapshot id.

        A region that is committed already is no error when its rows are the same (a retried worker).
        Raises Mismatch when they are not, Conflict after 100 lost races.
        """
        results = [result for fork in forks for result in fork.results]
        if not results:
            return self.snapshot_id
        sessions = [fork.session for fork in forks if fork.results and fork.session]
        written = Written(results, sessions, self.n_rows)
        self._see(commit_regions((self.location, self._repository), written))
        return self.snapshot_id

    def rewrite(self, forks: Sequence[Fork]) -> str:
        """Replace damaged regions of a finished capture by the same ones, collected again; returns the snapshot id.

        Raises Mismatch when their rows are not those that were recorded.
        """
        results = [result for fork in forks for result in fork.results]
        sessions = [fork.session for fork in forks if fork.session]
        self._see(rewrite_regions((self.location, self._repository), Written(results, sessions, self.n_rows)))
        return self.snapshot_id

    def finish(self) -> "ActivationStore":
        """Mark the capture as complete, record its content digest, and tag it; returns self. Twice is the same as once.

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
        self.location.flush()  # commits of regions do not flush: a power cut before this may lose some of them
        session = self._repository.writable_session(BRANCH)
        sealed = replace(self.layout, state=COMPLETE, digest=digest)
        zarr.open_group(session.store, mode="r+").attrs[KEY] = sealed.attributes()
        self._see(self.location.commit(session, "complete", {"digest": digest}))
        self.layout = sealed


def open_root(store: icechunk.IcechunkStore) -> zarr.Group:
    """The root group, read-only."""
    return zarr.open_group(store, mode="r")


def _has_capture(repository: icechunk.Repository) -> bool:
    try:
        with readable("the repository"):
            root = open_root(sound(repository.readonly_session(BRANCH)).store)
    except FileNotFoundError:
        return False  # its creator was killed before the template was written
    return KEY in root.attrs


def check_disk(place: Location, size: int) -> None:
    """Raises StoreError when `size` bytes do not fit on the disk of a local folder."""
    free = place.free_bytes()
    if free is not None and size > free:
        raise StoreError(
            f"{place.url} has {free / 1e9:.1f} GB free, the capture needs {size / 1e9:.1f} GB: it cannot "
            "fit; take fewer sites or prompts, a pooled span, or a half-precision dtype."
        )


async def _coordinates(session: icechunk.Session) -> list[tuple[int, ...]]:
    return [coordinates async for coordinates in session.chunk_coordinates("/regions/digest")]
