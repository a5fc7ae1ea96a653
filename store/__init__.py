"""Arrays and bytes: captures of activations, and a catalog of everything made from them.

    from trimtab.store import ActivationStore, Catalog

Names are loaded when they are first used, so that `import trimtab.store` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.store.captures.activations import ActivationStore
    from trimtab.store.captures.reader import ContrastRows
    from trimtab.store.captures.schema import ArraySpec, Capture, Region, Role, TokenIndex
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
    "ContrastRows": "captures.reader",
    "Location": "location",
    "Region": "captures.schema",
    "Role": "captures.schema",
    "StoreError": "errors",
    "TokenIndex": "captures.schema",
    "Where": "captures.where",
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
