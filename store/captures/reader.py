"""Reading rows back: by site, head, label, role or prompt; in order, at random, or as a shuffled epoch.

Memory is bounded by the result and a few chunks. Rows come as float32 unless another dtype is asked for. Every method
raises NotFound for a site, head, prompt or split that the capture lacks, StoreError for rows that are not collected
yet, and Corrupt for rows that are damaged on disk.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trimtab.store.captures.contrast import ContrastRows, pair_orders, refuse_one_sided
from trimtab.store.captures.dtypes import from_stored
from trimtab.store.captures.epochs import Epoch, shuffled_batches
from trimtab.store.captures.layout import read_array
from trimtab.store.captures.rows import Slot, StoredRows
from trimtab.store.captures.statistics import Moments, Quantiles
from trimtab.store.captures.where import Where, WhereLike
from trimtab.store.errors import Invalid, Mismatch

if TYPE_CHECKING:
    import xarray

POOLS = ("mean", "last", "first")


class Readable(StoredRows):
    """The reading half of a store.

    site: "resid_post.12", or one head of an array with heads: "z.7.3" reads [n, d_head].
    where: a Where or its fields as a dict; None selects all rows.
    """

    # ---- rows

    def rows(self, site: str, where: WhereLike = None, dtype: str | None = "float32") -> np.ndarray:
        """The selected rows [n, ...] in order. dtype=None gives what is stored (bfloat16 as uint16 bits)."""
        return self._gather(self._slot(site), Where.of(where).rows(self.index), dtype)

    def random_rows(self, site: str, n: int, seed: int, where: WhereLike = None) -> np.ndarray:
        """`n` different rows float32 [n, ...] drawn uniformly, in random order (all when there are fewer)."""
        candidates = Where.of(where).rows(self.index)
        rng = np.random.default_rng(seed)
        drawn = rng.choice(candidates, size=min(n, len(candidates)), replace=False)
        order = np.argsort(drawn, kind="stable")
        values = self._gather(self._slot(site), drawn[order], "float32")
        shuffled = np.empty_like(values)
        shuffled[order] = values
        return shuffled

    def pooled(self, site: str, how: str = "mean", where: WhereLike = None) -> np.ndarray:
        """One row per selected prompt, float32 [prompts, ...]: mean, last or first of its selected rows.

        Raises Invalid for another `how`, Mismatch when a selected prompt has no selected row.
        """
        if how not in POOLS:
            raise Invalid(f"cannot pool by {how!r}; use {', '.join(POOLS)}.")
        slot, selection = self._slot(site), Where.of(where)
        prompts = np.flatnonzero(selection.prompt_mask(self.index))
        rows = selection.rows(self.index)
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
        """The rows of prompts with label +1 against those with label -1, for each site.

        pool: one row per prompt, as in `pooled`; None takes every row, and is never paired.
        When each labelled prompt has exactly one partner of the other label (TokenIndex.pair), rows are paired.
        Raises NotFound when one side is empty.
        """
        special = None if include_special else False
        plus, minus = (Where(label=label, split=split, special=special) for label in (1, -1))
        pairs = [self.index.pair[side.prompt_mask(self.index)] for side in (plus, minus)]
        refuse_one_sided(len(pairs[0]), len(pairs[1]), split)
        if pool is None:
            rows = {site: (self.rows(site, plus), self.rows(site, minus)) for site in sites}
            return ContrastRows(rows, False, np.zeros(0, np.int32))
        first, second, paired = pair_orders(*pairs)
        rows = {s: (self.pooled(s, pool, plus)[first], self.pooled(s, pool, minus)[second]) for s in sites}
        return ContrastRows(rows, paired, pairs[0][first] if paired else np.zeros(0, np.int32))

    # ---- epochs

    def batches(self, site: str, size: int, where: WhereLike = None) -> Iterator[np.ndarray]:
        """The selected rows in order, float32 [<= size, ...] at a time."""
        slot, rows = self._slot(site), Where.of(where).rows(self.index)
        remaining, count = len(rows), 0  # rows that no finished batch has; rows in the batch being filled
        batch = np.empty((min(size, remaining), *slot.shape), np.float32)
        for _, values in self._chunks(slot, rows):
            while len(values):
                head, values = np.split(values, [len(batch) - count])
                batch[count : count + len(head)] = from_stored(head, slot.spec)
                count += len(head)
                if count == len(batch):
                    yield batch
                    remaining, count = remaining - count, 0
                    batch = np.empty((min(size, remaining), *slot.shape), np.float32)

    def shuffled(
        self, site: str, size: int, seed: int, buffer_rows: int = 65536, where: WhereLike = None
    ) -> Iterator[np.ndarray]:
        """One epoch in seeded random order, float32 [<= size, ...] at a time, every selected row once.

        Chunks are visited in random order and mixed in a buffer of `buffer_rows` rows (plus one chunk), of
        which a random half leaves at a time. With `buffer_rows` >= all rows it is a uniform permutation.
        """
        return self.epoch(site, Epoch(size, seed, buffer_rows), where)

    def epoch(self, site: str, order: Epoch, where: WhereLike = None) -> Iterator[np.ndarray]:
        """`shuffled`, or one part of it: no two parts share a chunk, and all parts together have every row once."""
        slot, rng = self._slot(site), order.rng
        rows = order.own_rows(Where.of(where).rows(self.index), slot.spec.chunk_rows)
        chunks = (values for _, values in self._chunks(slot, rows, rng))
        return shuffled_batches(chunks, slot, len(rows), order, rng)

    # ---- statistics

    def statistics(self, site: str, where: WhereLike = None) -> Moments:
        """Count, mean and covariance of the selected rows; rows with heads count as [n, head * d_head]."""
        total = Moments.of(np.zeros((0, self._slot(site).width)))
        for flat in self._flat_chunks(site, where):
            total = total.merge(Moments.of(flat))
        return total

    def quantiles(self, site: str, where: WhereLike = None) -> Quantiles:
        """Quantiles of each column of the selected rows, in one pass; rows with heads count as [n, head * d_head]."""
        total = Quantiles.empty(self._slot(site).width)
        for flat in self._flat_chunks(site, where):
            total = total.merge(Quantiles.of(flat))
        return total

    def error(self, site: str) -> float:
        """Relative error of the stored rows, recorded when they were written: the root of squared errors over squared
        values, and 0 but for int8."""
        spec = self.layout.spec(site)
        if spec.dtype != "int8":
            return 0.0
        lost, whole = read_array(self._root, "regions/error")[:, self.layout.sites.index(site)].sum(axis=0)
        return float(np.sqrt(lost / whole)) if whole else 0.0

    def to_xarray(self) -> "xarray.Dataset":
        """All arrays as they are stored, with their dimension names, read lazily: bfloat16 as uint16 bits, int8 packed.

        `trimtab.store.as_dataset(store)` gives floats.
        """
        import xarray  # brings pandas, and nothing else here needs it

        dataset: xarray.Dataset = xarray.open_zarr(self._session.store, consolidated=False, chunks=None, zarr_format=3)
        return dataset

    # ---- how

    def _flat_chunks(self, site: str, where: WhereLike) -> Iterator[np.ndarray]:
        """The selected rows, float32 [n, values of a row], chunk by chunk."""
        slot = self._slot(site)
        for _, values in self._chunks(slot, Where.of(where).rows(self.index)):
            yield slot.decode(values, "float32").reshape(len(values), slot.width)

    def _means(self, slot: Slot, rows: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        """float32 [prompts, ...]: the mean of each prompt's `rows`, summed in float64."""
        owner = np.searchsorted(self.index.offsets, rows, side="right") - 1
        owner = np.searchsorted(prompts, owner)  # of each row: the position of its prompt in `prompts`
        sums = np.zeros((len(prompts), *slot.shape))
        for positions, values in self._chunks(slot, rows):
            owners, starts = np.unique(owner[positions], return_index=True)
            sums[owners] += np.add.reduceat(slot.decode(values, "float64"), starts, axis=0)
        counts = np.bincount(owner, minlength=len(prompts)).reshape(-1, *([1] * len(slot.shape)))
        return np.asarray(sums / counts, np.float32)


def _refuse_empty(prompts: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
    empty = prompts[starts == stops]
    if len(empty):
        raise Mismatch(
            f"{len(empty)} of {len(prompts)} selected prompts have no selected row (first: prompt "
            f"{int(empty[0])}): nothing to pool; select other roles, include special tokens, or leave them "
            "out."
        )
