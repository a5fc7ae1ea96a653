"""A capture as an xarray Dataset of floats."""

import numpy as np
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from trimtab.store.captures.reader import Readable

OuterKey = tuple[int | slice | np.ndarray, ...]  # one index per dimension, each on its own


def as_dataset(store: Readable) -> xarray.Dataset:
    """A capture as an xarray Dataset, each site float32 with its dimension names; rows are read when they are used.

        data = as_dataset(ActivationStore.open("captures/4f0c..."))
        data["z.7"].isel(head=3, row=slice(0, 100)).mean("row")

    Sites: [row, d_model], [row, head, d_head] or [row, d_mlp], whatever dtype is stored (bfloat16 and int8 are
    decoded). On `row`: token_id, position, role (see TokenRole), special, and row_prompt, the prompt that a row belongs
    to. On `prompt`: label, pair, split (text), so that `data["label"][data["row_prompt"]]` is the label of each row.

    Using rows that are not collected yet raises StoreError; rows that are damaged raise Corrupt.
    """
    index = store.index
    sites = {spec.name: (("row", *spec.dims), _lazy(store, spec.name)) for spec in store.layout.specs}
    texts = {"row_prompt": ("row", index.prompt), "split": ("prompt", index.split)}
    return store.to_xarray().assign(sites | texts)


def _lazy(store: Readable, site: str) -> indexing.LazilyIndexedArray:
    return indexing.LazilyIndexedArray(_SiteArray(store, site))


class _SiteArray(BackendArray):
    """The rows of one site, float32 [row, ...], read from the store when indexed."""

    def __init__(self, store: Readable, site: str) -> None:
        self.store, self.site = store, site
        self.shape = (store.layout.index.n_rows, *store.layout.spec(site).shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        values: np.ndarray = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return values

    def _read(self, key: OuterKey) -> np.ndarray:
        rows = np.arange(self.shape[0])[key[0]]
        ascending, positions = np.unique(rows, return_inverse=True)  # the order in which a store is read
        values = self.store.take(self.site, ascending, "float32")
        for axis in range(len(key) - 1, 0, -1):  # from the last, so that a dropped dimension moves no other
            values = values[(slice(None),) * axis + (key[axis],)]
        return values[positions.reshape(np.shape(rows))]
