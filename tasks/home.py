"""Home: the one place where everything of a project lies. catalog/ (every product, versioned), captures/ (activation
stores by the digest of what was asked), reports/ (HTML)."""

import os
from dataclasses import dataclass
from functools import lru_cache
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

    @property
    def catalog(self) -> Catalog:
        """The same object for every Home of this place in this process, so that records of versions are read once."""
        place = self.root.child("catalog")
        if place.scheme != "file":
            return _catalog(place.url, os.getpid())
        try:
            status = os.stat(place.root)
        except OSError:  # nothing was published yet
            return self.catalog_on_disk()
        return _catalog(place.url, os.getpid(), status.st_dev, status.st_ino)

    def catalog_on_disk(self) -> Catalog:
        """A catalog that remembers nothing, to check what is stored."""
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


@lru_cache(maxsize=8)
def _catalog(url: str, process: int, device: int = 0, inode: int = 0) -> Catalog:
    """process: an open repository must not be used after a fork. device, inode: of the local folder; one that was
    removed and made again is another."""
    return Catalog(url)
