"""Stored rows by their numbers: the layer between chunks on disk and what `reader.py` offers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import icechunk
import numpy as np
import zarr

from trimtab.store.captures.chunks import AT_ONCE, DamagedChunk, ahead, read_chunks
from trimtab.store.captures.dtypes import from_stored
from trimtab.store.captures.index import RowIndex
from trimtab.store.captures.layout import COMPLETE, CaptureLayout, read_array
from trimtab.store.captures.schema import ArraySpec
from trimtab.store.errors import Corrupt, NotFound, StoreError, nearest
from trimtab.store.location import Location


@dataclass(frozen=True)
class Slot:
    """Where the values of a site lie: the array, and the head whose rows are meant (None: whole rows)."""

    spec: ArraySpec
    head: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row as floats."""
        return self.spec.shape if self.head is None else self.spec.shape[1:]

    @property
    def width(self) -> int:
        """Values of one row."""
        return int(np.prod(self.shape))

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one row on disk."""
        return self.spec.stored_shape if self.head is None else self.spec.stored_shape[1:]

    def decode(self, stored: np.ndarray, dtype: str) -> np.ndarray:
        """Stored values as floats of this dtype."""
        return from_stored(stored, self.spec).astype(dtype, copy=False)


class StoredRows:
    """The rows of one snapshot of a capture. Needs `layout`, `location`, and `_session` and `_root` (the root
    group)."""

    layout: CaptureLayout
    location: Location
    _root: zarr.Group
    _session: icechunk.Session

    @property
    def index(self) -> RowIndex:
        """Which rows belong to which prompt, and what they are; an array is read when it is first used."""
        assert isinstance(self.layout.index, RowIndex)  # a growing one is only written
        return self.layout.index

    @property
    def zarr_group(self) -> zarr.Group:
        """The root group of this snapshot, read-only, for Zarr's own tools. schema.py describes its arrays.

        Rows that were not collected yet read as zeros here.
        """
        return self._root

    def take(self, site: str, rows: np.ndarray, dtype: str | None = None) -> np.ndarray:
        """Rows of ascending numbers [n] as [n, ...], in the stored dtype or as floats of `dtype`.

        Raises NotFound (site), StoreError (rows not collected yet) and Corrupt (damaged rows).
        """
        return self._gather(self._slot(site), rows, dtype)

    def stored_rows(self, site: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop [n, ...] in the stored dtype. Raises as `take`."""
        return self.take(site, np.arange(start, stop))

    def region_digests(self) -> np.ndarray:
        """uint8 [region, site, 32]: sha256 of each region's rows as written (zeros: not written yet)."""
        return read_array(self._root, "regions/digest")

    def _slot(self, site: str) -> Slot:
        """Where "resid_post.12", "z.7" or one head of it ("z.7.3") lies. Raises NotFound."""
        stored = {spec.name: spec for spec in self.layout.specs}
        if site in stored:
            return Slot(stored[site])
        parent, _, last = site.rpartition(".")
        spec = stored.get(parent)
        if spec is None or spec.dims[0] != "head" or not last.isdigit():
            raise NotFound(f"site {site!r} is not in this capture: {nearest(site, stored)}")
        if int(last) >= spec.shape[0]:
            raise NotFound(f"{parent} has heads 0..{spec.shape[0] - 1}; there is no head {last}.")
        return Slot(spec, int(last))

    def _chunks(
        self, slot: Slot, rows: np.ndarray, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """For each chunk that holds some of the ascending `rows`: their positions in `rows`, and their stored values.

        rng: visit the chunks in random order.
        """
        self._refuse_pending(rows)
        step = slot.spec.chunk_rows
        numbers, starts = np.unique(rows // step, return_index=True)
        stops = np.append(starts[1:], len(rows))
        order = np.arange(len(numbers)) if rng is None else rng.permutation(len(numbers))
        groups = np.array_split(order, range(AT_ONCE, len(order), AT_ONCE))
        read = partial(self._read, slot.spec)
        for group, blocks in zip(groups, ahead(read, [numbers[group].tolist() for group in groups]), strict=True):
            for i, block in zip(group, blocks, strict=True):
                inside = rows[starts[i] : stops[i]] - numbers[i] * step
                values = block if slot.head is None else block[:, slot.head]
                low, high = int(inside[0]), int(inside[-1]) + 1
                values = values[low:high] if len(inside) == high - low else values[inside]
                yield slice(int(starts[i]), int(stops[i])), values

    def _read(self, spec: ArraySpec, numbers: Sequence[int]) -> list[np.ndarray]:
        """Chunks [chunk rows, ...]. Raises Corrupt, naming the regions and the cure, when one is damaged."""
        try:
            return read_chunks(self._session.store, spec, numbers)
        except DamagedChunk as error:
            start = error.number * spec.chunk_rows
            rows = np.asarray([start, min(start + spec.chunk_rows, self.layout.index.n_rows) - 1])
            first, last = np.searchsorted(self.layout.row_edges, rows, side="right") - 1
            regions = f"region {first}" if first == last else f"regions {first} to {last}"
            raise Corrupt(
                f"{self.location.url}: {spec.name}, rows {rows[0]}..{rows[1] + 1} ({regions}) are damaged: chunk "
                f"{error.number} {error.wrong}; nothing was computed from them; `trimtab repair` collects them again."
            ) from error

    def _refuse_pending(self, rows: np.ndarray) -> None:
        """Raises StoreError when some of the rows were not written yet: they would read as zeros."""
        if self.layout.state == COMPLETE:
            return
        written = np.asarray(self.region_digests().any(axis=(1, 2)))
        missing = np.logical_not(written[np.searchsorted(self.layout.row_edges, rows, side="right") - 1])
        if missing.any():
            raise StoreError(
                f"{int(missing.sum())} of {len(rows)} rows are not collected yet (first: row "
                f"{int(rows[missing][0])}); run the collection again to resume it."
            )

    def _gather(self, slot: Slot, rows: np.ndarray, dtype: str | None) -> np.ndarray:
        """Rows of ascending numbers [n, ...] as floats of this dtype; None gives the stored values."""
        if dtype is None:
            values = np.empty((len(rows), *slot.stored_shape), slot.spec.stored_dtype)
        else:
            values = np.empty((len(rows), *slot.shape), np.dtype(dtype))
        for positions, stored in self._chunks(slot, rows):
            values[positions] = stored if dtype is None else from_stored(stored, slot.spec)
        return values
