"""The captures of one home: in which folder the rows of a catalog record lie, and which folders may be removed.

A record names its rows relative to the home ("captures/4f0c..."), so a home can be copied, moved and reached through a
link. Records of older versions name an absolute place. If this home's folder of the same name holds their rows, that
one is meant; otherwise the absolute place is read, and never removed.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.store.captures.activations import ActivationStore
from trimtab.store.catalog.artifact import Artifact
from trimtab.store.digests import JSON
from trimtab.store.errors import Corrupt, NotFound, StoreError
from trimtab.store.location import Location

FOLDER = "captures"


@dataclass(frozen=True)
class Captures:
    """root: the folder `captures` of a home; each folder directly below it holds one capture."""

    root: Location

    @staticmethod
    def beside(catalog: Location) -> "Captures":
        """The captures of the home whose catalog lies here."""
        return Captures(catalog.parent.child(FOLDER))

    def __iter__(self) -> Iterator[Location]:
        """The place of every store in a local folder, by name; none for memory and S3."""
        folder = Path(self.root.root)
        if self.root.scheme != "file" or not folder.is_dir():
            return
        for path in sorted(folder.glob("[!.]*")):
            place = Location.parse(path)
            if is_store(place):
                yield place

    def record(self, store: ActivationStore) -> dict[str, JSON]:
        """The header with which a finished capture is published. Raises StoreError when it is not finished."""
        return {
            "location": self._relative(store.location),
            "snapshot": store.snapshot_id,
            "digest": store.digest,
            "capture": dict(store.capture.fields),
            "capture_digest": store.capture.digest,
            "sites": list(store.sites),
            "n_rows": store.n_rows,
            "n_prompts": store.n_prompts,
            "nbytes": store.nbytes,
            "checksum": "crc32c" if store.layout.checked else None,
        }

    def locate(self, header: Mapping[str, JSON]) -> Location:
        """Where the rows of a record lie, or lay before they were lost. Raises Corrupt for a record that names no
        place."""
        text = header.get("location")
        if isinstance(text, str) and text.startswith(f"{FOLDER}/"):
            return self.root.child(text.removeprefix(f"{FOLDER}/"))
        if not isinstance(text, str) or not (text.startswith("/") or "://" in text):
            raise Corrupt(
                f"a capture's record names {text!r} as the place of its rows, which is none; publish it anew."
            )
        recorded = Location.parse(text)
        here = self._folder_named(recorded.name)
        return here if here is not None and (_holds(here, header) or not _holds(recorded, header)) else recorded

    def open(self, artifact: Artifact) -> ActivationStore:
        """The store of a published capture. Raises NotFound (no store), Corrupt (damaged, or other rows)."""
        place, cure = self.locate(artifact.header), f"`trimtab repair {artifact.ref}` collects them again"
        if not is_store(place):
            raise _gone(place)(f"the rows of {artifact.ref} are lost: there is no store at {place.url}; {cure}.")
        try:
            digest = ActivationStore.open(place).layout.digest
        except StoreError as error:
            raise Corrupt(f"the rows of {artifact.ref} at {place.url} cannot be read ({error}); {cure}.") from error
        if digest != artifact.header.get("digest"):
            other = f"digest {digest[:12]}" if digest else "no digest yet"
            recorded = str(artifact.header.get("digest"))[:12]
            raise Corrupt(
                f"the rows at {place.url} have {other}, {artifact.ref} was published with {recorded}; {cure}."
            )
        return ActivationStore.open(place)

    def refusal(self, place: Location) -> str:
        """Why the store at this place may not be removed from here, as a clause; empty when it may."""
        if place.scheme == "s3":
            return "they lie on S3: remove them with your bucket's own tools (aws s3 rm --recursive)"
        if place != self._folder_named(place.name) or not _stays_inside(place, self.root):
            return "they lie outside this home"
        return ""

    def _relative(self, place: Location) -> str:
        """Relative to the home where the place is below it by any path, otherwise absolute."""
        here = self._folder_named(place.name)
        return f"{FOLDER}/{place.name}" if here is not None and _real(place) == _real(here) else place.url

    def _folder_named(self, name: str) -> Location | None:
        return None if not name or name.startswith(".") else self.root.child(name)


def is_store(place: Location) -> bool:
    """Whether a readable repository lies there."""
    try:
        return place.exists()
    except StoreError:
        return False


def _gone(place: Location) -> type[StoreError]:
    """The error for rows that are lost: NotFound where nothing lies, Corrupt where some files of a store remain."""
    remains = place.scheme == "file" and os.path.isdir(place.root) and os.listdir(place.root)
    return Corrupt if remains else NotFound


def _holds(place: Location, header: Mapping[str, JSON]) -> bool:
    """Whether the rows there are those that were published."""
    try:
        return is_store(place) and ActivationStore.open(place).layout.digest == header.get("digest")
    except StoreError:
        return False


def _stays_inside(place: Location, captures: Location) -> bool:
    """Whether the folder really lies in the home. One that a link leads to may be needed by another home."""
    if place.scheme != "file":
        return True
    home = os.path.realpath(captures.parent.root)
    return _real(place) == os.path.join(home, captures.name, place.name)


def _real(place: Location) -> str:
    return os.path.realpath(place.root) if place.scheme == "file" else place.url
