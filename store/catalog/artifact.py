"""One published version of a product."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from types import MappingProxyType

import numpy as np

from trimtab.store.catalog.payload import Entry
from trimtab.store.digests import JSON, json_digest

LIBRARIES = ("trimtab", "numpy", "torch", "transformers", "zarr", "icechunk", "scikit-learn")


@dataclass(frozen=True)
class Parent:
    """What an artifact was made from: a pinned reference ("name@3") and the digest it had."""

    ref: str
    digest: str

    def __str__(self) -> str:
        return self.ref


@dataclass(frozen=True)
class Artifact:
    """An immutable version of a product.

    name, version: "name@version" is `ref`.  kind: plan, capture, ranking, verdict, ...
    digest: sha256 (hex) over kind, header, arrays, parents and recipe.  created: ISO time, UTC.
    arrays: name -> numpy array, read when asked for.  header: JSON.  parents: pinned.
    recipe, metrics: JSON or None.  libraries: versions that were installed.
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
    """What the digest of an artifact covers."""

    kind: str
    header: Mapping[str, JSON]
    entries: Mapping[str, Entry]
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
    """sha256 (hex) of a whole record: what `verify` compares, so that metrics and dates are covered too."""
    return json_digest({name: value for name, value in record.items() if name != "seal"})


@lru_cache(maxsize=1)
def libraries() -> Mapping[str, str]:
    """Installed versions of what shapes results; asks for metadata only, imports nothing."""
    found = {"python": python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return MappingProxyType(found)
