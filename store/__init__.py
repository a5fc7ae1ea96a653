"""Arrays and bytes: captures of activations, and a catalog of everything made from them.

    from trimtab.store import ActivationStore, Catalog

Names are loaded when they are first used, so that `import trimtab.store` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.store.activations import ActivationStore
    from trimtab.store.artifact import Artifact
    from trimtab.store.catalog import Catalog
    from trimtab.store.errors import StoreError
    from trimtab.store.location import Location
    from trimtab.store.reader import ContrastRows
    from trimtab.store.schema import ArraySpec, Capture, Region, Role, TokenIndex
    from trimtab.store.where import Where

_HOMES = {
    "ActivationStore": "activations",
    "ArraySpec": "schema",
    "Artifact": "artifact",
    "Capture": "schema",
    "Catalog": "catalog",
    "ContrastRows": "reader",
    "Location": "location",
    "Region": "schema",
    "Role": "schema",
    "StoreError": "errors",
    "TokenIndex": "schema",
    "Where": "where",
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
    "Role",
    "StoreError",
    "TokenIndex",
    "Where",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
