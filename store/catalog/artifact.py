"""One published version of a product."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from types import MappingProxyType

import numpy as np

from trimtab.store.catalog.payload import ArrayEntry
from trimtab.store.digests import JSON, json_digest

LIBRARIES = ("trimtab", "numpy", "torch", "transformers", "zarr", "icechunk", "scikit-learn")


@dataclass(frozen=True)
class Parent:
    """An artifact that another one was computed from: its pinned reference ("name@3"), and the digest it had then."""

    ref: str
    digest: str

    def __str__(self) -> str:
        return self.ref


@dataclass(frozen=True)
class Artifact:
    """An immutable version of a product.

    name, version: "name@version" is `ref`.
    kind: plan, capture, ranking, verdict, ...
    digest: sha256 (hex) over kind, header, arrays, parents and recipe.
    created: ISO time, UTC.
    arrays: name -> numpy array, read at each access.
    header: JSON, what the arrays mean.
    parents: the artifacts it was computed from.
    recipe, metrics: JSON or None.
    libraries: installed versions when it was published.
    key: the stage key it was published with, or None.
    """

    name: str
    version: int
    kind: str
    digest: str
    created: str
    arrays: Mapping[str, np.ndarray]
    header: Mapping[str, JSON]
    parents: tuple[Parent, ...]
    recipe: JSON
    metrics: JSON
    libraries: Mapping[str, str]
    key: str | None

    @property
    def ref(self) -> str:
        """The pinned reference."""
        return f"{self.name}@{self.version}"

    def __repr__(self) -> str:
        return f"<Artifact {self.ref} {self.kind} {self.digest[:12]}, {len(self.arrays)} arrays>"


@dataclass(frozen=True)
class Content:
    """The part of an artifact that its digest covers."""

    kind: str
    header: Mapping[str, JSON]
    entries: Mapping[str, ArrayEntry]
    parents: tuple[Parent, ...]
    recipe: JSON

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON; arrays count by dtype, shape and bytes."""
        return json_digest(
            {
                "kind": self.kind,
                "header": dict(self.header),
                "arrays": {name: entry.sha256 for name, entry in self.entries.items()},
                "parents": [[parent.ref, parent.digest] for parent in self.parents],
                "recipe": self.recipe,
            }
        )


def seal(record: Mapping[str, JSON]) -> str:
    """sha256 (hex) of a whole record, metrics and dates included, for `verify`."""
    return json_digest({name: value for name, value in record.items() if name != "seal"})


@lru_cache(maxsize=1)
def libraries() -> Mapping[str, str]:
    """name -> installed version, of Python and LIBRARIES. Reads package metadata only, and imports nothing."""
    versions = {"python": python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return MappingProxyType(versions)
