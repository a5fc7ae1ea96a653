"""Arrays and bytes: captures of activations, and a catalog of everything that is computed from them.

    from trimtab.store import ActivationStore, Catalog

    store = ActivationStore.open("captures/4f0c...")
    store.rows("resid_post.12", {"split": "fit"})     # float32 [n, d_model]
    as_dataset(store)                                 # xarray, float32, read when used
    export_hdf5(store, "rows.h5")                     # one file, and back by import_hdf5

Names are loaded when they are first used, so that `import trimtab.store` costs nothing, and h5py and xarray are
imported only by those who use them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.store.captures.activations import ActivationStore
    from trimtab.store.captures.contrast import ContrastRows
    from trimtab.store.captures.dataset import as_dataset
    from trimtab.store.captures.hdf5 import export_hdf5, import_hdf5
    from trimtab.store.captures.index import TokenIndex, TokenRole
    from trimtab.store.captures.schema import ArraySpec, Capture, Region
    from trimtab.store.captures.where import Where
    from trimtab.store.catalog.artifact import Artifact
    from trimtab.store.catalog.catalog import Catalog
    from trimtab.store.errors import StoreError
    from trimtab.store.location import Location

_HOMES = {
    "ActivationStore": "captures.activations",
    "ArraySpec": "captures.schema",
    "Artifact": "catalog.artifact",
    "Capture": "captures.schema",
    "Catalog": "catalog.catalog",
    "ContrastRows": "captures.contrast",
    "Location": "location",
    "Region": "captures.schema",
    "StoreError": "errors",
    "TokenIndex": "captures.index",
    "TokenRole": "captures.index",
    "Where": "captures.where",
    "as_dataset": "captures.dataset",
    "export_hdf5": "captures.hdf5",
    "import_hdf5": "captures.hdf5",
}

__all__ = [
    "ActivationStore",
    "ArraySpec",
    "Artifact",
    "Capture",
    "Catalog",
    "ContrastRows",
    "Location",
    "Region",
    "StoreError",
    "TokenIndex",
    "TokenRole",
    "Where",
    "as_dataset",
    "export_hdf5",
    "import_hdf5",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
