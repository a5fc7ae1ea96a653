"""Reading rows back: by site, head, label, role or prompt; in order, at random, or as a shuffled epoch.

Memory is bounded by the result and a few chunks everywhere. Every method takes rows as stored rows and gives
float32 unless asked otherwise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import icechunk
import numpy as np
import zarr

from trimtab.store.captures.blocks import decode
from trimtab.store.captures.chunks import AT_ONCE, DamagedChunk, ahead, read_chunks
from trimtab.store.captures.layout import COMPLETE, Layout, read_array
from trimtab.store.captures.moments import Statistics
from trimtab.store.captures.quantiles import Quantiles
from trimtab.store.captures.schema import ArraySpec, RowIndex
from trimtab.store.captures.where import Where
from trimtab.store.captures.writing import from_bfloat16
from trimtab.store.errors import Corrupt, Invalid, Mismatch, NotFound, StoreError, nearest
from trimtab.store.location import Location

if TYPE_CHECKING:
    import xarray

POOLS = ("mean", "last", "first")


@dataclass(frozen=True)
class ContrastRows:
    """Positive and negative rows per site.

    rows: site -> (positive [n d], negative [m d]).  paired: row i of both sides belong to pair `pairs[i]`
    (n = m, in the order of the pair numbers); otherwise both sides are in the order of the prompts.
    """

    rows: Mapping[str, tuple[np.ndarray, np.ndarray]]
    paired: bool
    pairs: np.ndarray

    def __getitem__(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        return self.rows[site]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.rows)


@dataclass(frozen=True)
class Epoch:
    """How rows are shuffled. size: rows of a batch. seed: of the order. buffer_rows: rows that are mixed. part, of:
    which part of the epoch, when several workers share it."""

    size: int
    seed: int = 0
    buffer_rows: int = 65536
    part: int = 0
    of: int = 1

    def mine(self, rows: np.ndarray, chunk_rows: int) -> np.ndarray:
        """The rows of this part: those of every `of`-th chunk that holds any, in an order drawn from the seed."""
        if self.of == 1:
            return rows
        chunk = rows // chunk_rows
        numbers = np.unique(chunk)
        dealt = np.random.default_rng(self.seed).permutation(len(numbers)) % self.of
        return rows[dealt[np.searchsorted(numbers, chunk)] == self.part]


@dataclass(frozen=True)
class _Slot:
    """A site as asked for: the array it lies in, and the head of it (None = whole rows)."""

    spec: ArraySpec
    head: int | None


class Readable:
    """The reading half of a store. Needs `layout`, `location`, `_root` (zarr group) and `_session` of one snapshot."""

    layout: Layout
    location: Location
    _root: zarr.Group
    _session: icechunk.Session

    @property
    def index(self) -> RowIndex:
        """Which rows belong to which prompt, and what they are; an array is read when it is asked for."""
        assert isinstance(self.layout.index, RowIndex)  # a growing one is only written
        return self.layout.index

    # ---- rows

    def rows(self, site: str, where: Where | dict | None = None, dtype: str | None = "float32") -> np.ndarray:
        """The selected rows [n, ...] in order. dtype=None keeps what is stored (bfloat16 as uint16 bits).

        `site` may name one head of a per-head array: "z.7.3" gives [n, d_head].
        Raises NotFound for an unknown site, head, prompt or split.
        """
        slot = self._slot(site)
        mask = Where.of(where).row_mask(self.index)
        return self._gather(slot, np.flatnonzero(mask), dtype)

    def random_rows(self, site: str, n: int, seed: int, where: Where | dict | None = None) -> np.ndarray:
        """`n` different rows float32 [n, ...] drawn uniformly, in random order (all when there are fewer)."""
        candidates = np.flatnonzero(Where.of(where).row_mask(self.index))
        rng = np.random.default_rng(seed)
        drawn = rng.choice(candidates, size=min(n, len(candidates)), replace=False)
        order = np.argsort(drawn, kind="stable")
        values = self._gather(self._slot(site), drawn[order], "float32")
        back = np.empty_like(values)
        back[order] = values
        return back

    def pooled(self, site: str, how: str = "mean", where: Where | dict | None = None) -> np.ndarray:
        """One row per selected prompt, float32 [prompts, ...]: mean, last or first of its selected rows.

        Raises Mismatch when a selected prompt has no selected row.
        """
        if how not in POOLS:
            raise Invalid(f"cannot pool by {how!r}; use {', '.join(POOLS)}.")
        slot, chosen = self._slot(site), Where.of(where)
        prompts = np.flatnonzero(chosen.prompt_mask(self.index))
        rows = np.flatnonzero(chosen.row_mask(self.index))
        edges = np.searchsorted(rows, self.index.offsets)
        starts, stops = edges[:-1][prompts], edges[1:][prompts]
        _refuse_empty(prompts, starts, stops)
        if how == "mean":
            return self._means(slot, rows, prompts)
        return self._gather(slot, rows[starts if how == "first" else stops - 1], "float32")

    def contrast(
        self,
        sites: Sequence[str],
        pool: str | None = "mean",
        split: str | None = None,
        include_special: bool = False,
    ) -> ContrastRows:
        """Positive against negative rows of each site; `pool=None` takes every row (never paired).

        When each labelled prompt has exactly one partner of the other label (TokenIndex.pair), rows are
        matched.
        Raises NotFound when one side is empty.
        """
        special = None if include_special else False
        plus, minus = (Where(label=label, split=split, special=special) for label in (1, -1))
        pairs = [self.index.pair[side.prompt_mask(self.index)] for side in (plus, minus)]
        _refuse_one_sided(len(pairs[0]), len(pairs[1]), split)
        if pool is None:
            rows = {site: (self.rows(site, plus), self.rows(site, minus)) for site in sites}
            return ContrastRows(rows, False, np.zeros(0, np.int32))
        first, second, paired = _pair_orders(*pairs)
        rows = {s: (self.pooled(s, pool, plus)[first], self.pooled(s, pool, minus)[second]) for s in sites}
        return ContrastRows(rows, paired, pairs[0][first] if paired else np.zeros(0, np.int32))

    # ---- epochs

    def batches(self, site: str, size: int, where: Where | dict | None = None) -> Iterator[np.ndarray]:
        """The selected rows in order, float32 [<= size, ...] at a time."""
        slot = self._slot(site)
        rows = np.flatnonzero(Where.of(where).row_mask(self.index))
        left, held = len(rows), 0
        batch = np.empty((min(size, left), *_shape(slot)), np.float32)
        for _, values in self._chunks(slot, rows):
            while len(values):
                taken, values = np.split(values, [len(batch) - held])
                batch[held : held + len(taken)] = _numbers(taken, slot)
                held += len(taken)
                if held == len(batch):
                    yield batch
                    left, held = left - held, 0
                    batch = np.empty((min(size, left), *_shape(slot)), np.float32)

    def shuffled(
        self, site: str, size: int, seed: int, buffer_rows: int = 65536, where: Where | dict | None = None
    ) -> Iterator[np.ndarray]:
        """One epoch in seeded random order, float32 [<= size, ...] at a time, every selected row once.

        Chunks are visited in random order and mixed in a buffer of `buffer_rows` rows (plus one chunk), of
        which a random half leaves at a time. With `buffer_rows` >= all rows it is a uniform permutation.
        """
        return self.epoch(site, Epoch(size, seed, buffer_rows), where)

    def epoch(self, site: str, order: Epoch, where: Where | dict | None = None) -> Iterator[np.ndarray]:
        """`shuffled`, or one part of it: parts hold different chunks, and all of them together every row once."""
        slot, rng = self._slot(site), np.random.default_rng((order.seed, order.part))
        rows = np.flatnonzero(Where.of(where).row_mask(self.index))
        rows, size, buffer_rows = order.mine(rows, slot.spec.chunk_rows), order.size, order.buffer_rows
        room = min(len(rows), buffer_rows + slot.spec.chunk_rows)
        pool, held = np.empty((room, *_stored_shape(slot)), slot.spec.stored_dtype), 0
        for _, values in self._chunks(slot, rows, rng):
            pool[held : held + len(values)] = values
            held += len(values)
            while held >= max(1, buffer_rows):  # once is not enough where chunks are large beside the buffer
                drawn = rng.permutation(held)[: max(size, held // 2) // size * size]
                yield from _cut(pool, drawn, size, slot)
                held = _close_gaps(pool, drawn, held)
        yield from _cut(pool, rng.permutation(held), size, slot)

    def statistics(self, site: str, where: Where | dict | None = None) -> Statistics:
        """Count, mean and covariance of the selected rows; per-head rows count as [n, head * d_head]."""
        slot = self._slot(site)
        rows = np.flatnonzero(Where.of(where).row_mask(self.index))
        width = int(np.prod(_shape(slot)))
        total = Statistics(0, np.zeros(width), np.zeros((width, width)))
        for _, values in self._chunks(slot, rows):
            flat = _decode(values, slot, "float32").reshape(len(values), width)
            total = total.merge(Statistics.of(flat))
        return total

    def quantiles(self, site: str, where: Where | dict | None = None) -> Quantiles:
        """Quantiles of each column of the selected rows, in one pass; per-head rows count as [n, head * d_head]."""
        slot = self._slot(site)
        rows = np.flatnonzero(Where.of(where).row_mask(self.index))
        width = int(np.prod(_shape(slot)))
        total = Quantiles.nothing(width)
        for _, values in self._chunks(slot, rows):
            total = total.merge(Quantiles.of(_decode(values, slot, "float32").reshape(len(values), width)))
        return total

    def error(self, site: str) -> float:
        """Root of the squared error of all stored rows over their squared values: 0 but for int8. Recorded when they
        were written. Raises NotFound."""
        number = self.layout.sites.index(self.layout.spec(site).name)
        if self.layout.spec(site).dtype != "int8":
            return 0.0
        lost, whole = read_array(self._root, "regions/error")[:, number].sum(axis=0)
        return float(np.sqrt(lost / whole)) if whole else 0.0

    def to_xarray(self) -> "xarray.Dataset":
        """All arrays with their dimension names, read lazily. bfloat16 arrays appear as their uint16 bits."""
        import xarray  # brings pandas, and nobody else here needs it

        return xarray.open_zarr(self._session.store, consolidated=False, chunks=None, zarr_format=3)

    # ---- exact bytes, for verification and export

    def take(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Rows of the given ascending numbers [n, ...], in the stored dtype."""
        return self._gather(self._slot(site), rows, None)

    def stored_rows(self, site: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop [n, ...] in the stored dtype."""
        return self.take(site, np.arange(start, stop))

    def region_digests(self) -> np.ndarray:
        """uint8 [region, site, 32]: sha256 of each region's rows as written (zeros: not written)."""
        return read_array(self._root, "regions/digest")

    # ---- how

    def _slot(self, site: str) -> _Slot:
        stored = {spec.name: spec for spec in self.layout.specs}
        if site in stored:
            return _Slot(stored[site], None)
        parent, _, last = site.rpartition(".")
        spec = stored.get(parent)
        if spec is None or spec.dims[0] != "head" or not last.isdigit():
            raise NotFound(f"site {site!r} is not in this capture: {nearest(site, stored)}")
        if int(last) >= spec.shape[0]:
            raise NotFound(f"{parent} has heads 0..{spec.shape[0] - 1}; there is no head {last}.")
        return _Slot(spec, int(last))

    def _chunks(
        self, slot: _Slot, rows: np.ndarray, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Per chunk that holds some of `rows` (sorted): their positions in `rows`, and the stored values."""
        self._refuse_pending(rows)
        step = slot.spec.chunk_rows
        numbers, starts = np.unique(rows // step, return_index=True)
        stops = np.append(starts[1:], len(rows))
        order = np.arange(len(numbers)) if rng is None else rng.permutation(len(numbers))
        groups = np.array_split(order, range(AT_ONCE, len(order), AT_ONCE))
        read = partial(self._read, slot.spec)
        for some, blocks in zip(groups, ahead(read, [numbers[some].tolist() for some in groups]), strict=True):
            for i, block in zip(some, blocks, strict=True):
                here = rows[starts[i] : stops[i]] - numbers[i] * step
                values = block if slot.head is None else block[:, slot.head]
                low, high = int(here[0]), int(here[-1]) + 1
                values = values[low:high] if len(here) == high - low else values[here]
                yield slice(int(starts[i]), int(stops[i])), values

    def _read(self, spec: ArraySpec, numbers: Sequence[int]) -> list[np.ndarray]:
        """Raises Corrupt, naming the regions and the cure, when a chunk is not what was written."""
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
        """Rows that nobody wrote would read as zeros."""
        if self.layout.state == COMPLETE:
            return
        written = np.asarray(self.region_digests().any(axis=(1, 2)))
        missing = np.logical_not(written[np.searchsorted(self.layout.row_edges, rows, side="right") - 1])
        if missing.any():
            raise StoreError(
                f"{int(missing.sum())} of {len(rows)} rows are not collected yet (first: row "
                f"{int(rows[missing][0])}); run the collection again to resume it."
            )

    def _gather(self, slot: _Slot, rows: np.ndarray, dtype: str | None) -> np.ndarray:
        """Rows of sorted numbers, in the asked dtype."""
        kept = slot.spec.stored_dtype if dtype is None else np.dtype(dtype)
        out = np.empty((len(rows), *(_stored_shape(slot) if dtype is None else _shape(slot))), kept)
        for where, values in self._chunks(slot, rows):
            out[where] = values if dtype is None else _numbers(values, slot)
        return out

    def _means(self, slot: _Slot, rows: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        owner = np.searchsorted(self.index.offsets, rows, side="right") - 1
        owner = np.searchsorted(prompts, owner)
        sums = np.zeros((len(prompts), *_shape(slot)))
        for where, values in self._chunks(slot, rows):
            mine, starts = np.unique(owner[where], return_index=True)
            sums[mine] += np.add.reduceat(_decode(values, slot, "float64"), starts, axis=0)
        counts = np.bincount(owner, minlength=len(prompts)).reshape(-1, *([1] * len(_shape(slot))))
        return (sums / counts).astype(np.float32)


def _shape(slot: _Slot) -> tuple[int, ...]:
    return slot.spec.shape if slot.head is None else slot.spec.shape[1:]


def _stored_shape(slot: _Slot) -> tuple[int, ...]:
    return slot.spec.stored_shape if slot.head is None else slot.spec.stored_shape[1:]


def _numbers(values: np.ndarray, slot: _Slot) -> np.ndarray:
    """Stored values as floats: of the stored width where numpy has it, otherwise float32."""
    if slot.spec.dtype == "bfloat16":
        return from_bfloat16(values)
    return decode(values, slot.spec.shape[-1]) if slot.spec.dtype == "int8" else values


def _decode(values: np.ndarray, slot: _Slot, dtype: str) -> np.ndarray:
    return _numbers(values, slot).astype(dtype, copy=False)


def _cut(pool: np.ndarray, rows: np.ndarray, size: int, slot: _Slot) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield _decode(pool[rows[start : start + size]], slot, "float32")


def _close_gaps(pool: np.ndarray, drawn: np.ndarray, held: int) -> int:
    """Move the last rows that were not drawn into the places of drawn ones; returns how many are left."""
    left = held - len(drawn)
    stays = np.ones(held, dtype=bool)
    stays[drawn] = False
    pool[np.flatnonzero(~stays[:left])] = pool[left + np.flatnonzero(stays[left:])]
    return left


def _refuse_empty(prompts: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
    empty = prompts[starts == stops]
    if len(empty):
        raise Mismatch(
            f"{len(empty)} of {len(prompts)} selected prompts have no selected row (first: prompt "
            f"{int(empty[0])}): nothing to pool; select other roles, include special tokens, or leave them "
            "out."
        )


def _refuse_one_sided(positive: int, negative: int, split: str | None) -> None:
    if not positive or not negative:
        place = "" if split is None else f" in split {split!r}"
        raise NotFound(
            f"the capture has {positive} positive and {negative} negative prompts{place}: a contrast needs both; "
            "label the prompts."
        )


def _pair_orders(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Orders that bring both sides into pair order, and whether that matches every row with one partner."""
    first, second = np.argsort(positive, kind="stable"), np.argsort(negative, kind="stable")
    ids = positive[first]
    matched = len(ids) == len(negative) and (ids == negative[second]).all()
    if matched and (ids >= 0).all() and (np.diff(ids) > 0).all():
        return first, second, True
    return np.arange(len(positive)), np.arange(len(negative)), False
