"""Home: the one place where everything of a project lies. catalog/ (every product, versioned), captures/ (activation
stores by the digest of what was asked), reports/ (HTML)."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trimtab.store import ActivationStore, Catalog, Location
from trimtab.store.catalog.places import Captures

DEFAULT = ".trimtab"


@dataclass(frozen=True)
class Home:
    """root: a folder or URL. Nothing is created before something is written."""

    root: Location

    @classmethod
    def at(cls, url: "str | os.PathLike[str] | Home | None" = None) -> "Home":
        """From a folder or URL; by default $TRIMTAB_HOME, else `.trimtab` here."""
        if isinstance(url, Home):
            return url
        return cls(Location.parse(url or os.environ.get("TRIMTAB_HOME") or DEFAULT))

    @property
    def url(self) -> str:
        return self.root.url

    @cached_property
    def catalog(self) -> Catalog:
        """One for the life of this Home, so that what never changes is read once."""
        return Catalog(self.root.child("catalog").url)

    @property
    def captures(self) -> Captures:
        """Every activation store of this home."""
        return Captures.beside(self.root.child("catalog"))

    def capture(self, digest: str) -> Location:
        """Where the activations of a capture with this digest lie."""
        return self.captures.root.child(digest[:16])

    def rows(self, ref: str) -> ActivationStore:
        """The rows of a published capture. Raises StoreError when it is unknown, lost or damaged."""
        return self.captures.open(self.catalog.get(ref))

    @property
    def reports(self) -> Path:
        """Reports are files to look at, so they are local even when the home is remote."""
        return Path(self.root.root if self.root.scheme == "file" else DEFAULT) / "reports"
