"""Free disk space: delete versions and their rows, captures that were never published, and old snapshots.

Garbage collection goes by age. Beside an open writer it would remove chunks that the writer is about to commit, and
that commit could not be read; so nothing younger than the longest write is touched. Only stores below this home's
`captures` are ever removed, and only when they are the ones that a record names.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trimtab.store.captures.activations import ActivationStore
from trimtab.store.catalog import nodes
from trimtab.store.catalog.artifact import Artifact
from trimtab.store.catalog.catalog import Catalog
from trimtab.store.catalog.places import Captures, is_store
from trimtab.store.errors import Corrupt, Invalid, StoreError
from trimtab.store.location import BRANCH, LEFT_OVER, Location

YOUNGEST = timedelta(hours=1)


@dataclass(frozen=True)
class Freed:
    """What was (or would be) freed at one place.

    what: "unpublished capture", "half-deleted capture" or "old snapshots".  bytes: of chunks.
    """

    place: str
    what: str
    bytes: int


@dataclass(frozen=True)
class Deletion:
    """A deleted version. rows_stay: why a capture's rows were not removed; empty when they were, or there were none."""

    artifact: Artifact
    rows_stay: str = ""


def delete(catalog: Catalog, ref: str) -> Deletion:
    """Delete a version; a capture's rows too, when they lie in this home and no other version has them.

    Raises NotFound, and Conflict when something still needs it.
    """
    artifact = catalog.delete(ref)
    return Deletion(artifact, _free_rows(catalog, artifact) if artifact.kind == "capture" else "")


def _free_rows(catalog: Catalog, artifact: Artifact) -> str:
    """Remove the rows of a deleted capture; returns why they stay, if they do."""
    captures = Captures.beside(catalog.location)
    try:
        place = captures.locate(artifact.header)
    except StoreError as error:
        return str(error)
    refusal = captures.refusal(place)
    if refusal:
        return f"the rows at {place.url} stay: {refusal}"
    if not Path(place.root).exists() and place.scheme == "file":
        return ""
    with place.lock():
        refusal = _other_rows(place, artifact) or _needed(catalog, artifact)
        if not refusal:
            place.delete()
    return f"the rows at {place.url} stay: {refusal}" if refusal else ""


def _other_rows(place: Location, artifact: Artifact) -> str:
    try:
        digest = ActivationStore.open(place).layout.digest
    except StoreError as error:
        return f"they are not a capture that can be read ({error})"
    return "" if digest == artifact.header.get("digest") else "they are not those of the deleted version"


def _needed(catalog: Catalog, artifact: Artifact) -> str:
    digest = artifact.header.get("digest")
    others = [other.ref for other in catalog.list("capture") if other.header.get("digest") == digest]
    return f"{', '.join(others[:8])} has the same rows" if others else ""


def collect_garbage(catalog: Catalog, captures: Location, older_than: timedelta, dry_run: bool) -> list[Freed]:
    """Delete captures below `captures` that were never published, and drop old snapshots of the others and of the
    catalog, where they are older than `older_than`. What a published version needs, or a collection works with, stays.

    dry_run: delete nothing, and list what would be deleted (old snapshots are left out: their size is not known
    before).

    Raises Invalid when `older_than` is shorter than an hour, Corrupt when the catalog is lost: everything would look
    unpublished.
    """
    if older_than < YOUNGEST:
        raise Invalid(
            f"garbage must be older than {YOUNGEST}, not {older_than}: a running collection would be damaged."
        )
    home, before = Captures(captures), datetime.now(UTC) - older_than
    lost = lost_catalog(catalog, home)
    if lost:
        raise Corrupt(f"nothing is freed: {lost}.")
    freed = [*_remains(home, before, dry_run), *_unpublished(catalog, home, before, dry_run)]
    return [*freed, *_old_snapshots(catalog, home, before, dry_run)]


def lost_catalog(catalog: Catalog, captures: Captures) -> str:
    """A clause that says so, when finished captures lie beside a catalog that never had a version; otherwise empty.

    Raises Corrupt when the catalog cannot be read.
    """
    if catalog.list() or _ever_deleted(catalog):
        return ""
    finished = sum(_is_finished(place) for place in captures)
    if not finished:
        return ""
    return (
        f"the catalog at {catalog.location.url} is empty or absent, but {captures.root.url} holds {finished} finished "
        f"capture{'s' if finished > 1 else ''}: it was lost, or this is another home; restore it from a backup, or "
        f"collect again, which finds the rows and publishes them"
    )


def _ever_deleted(catalog: Catalog) -> bool:
    if not catalog.location.exists():
        return False
    return bool(nodes.names(catalog.location.repository().readonly_session(BRANCH), "deleted"))


def _is_finished(place: Location) -> bool:
    """Whether a finished capture lies there; False when it cannot be read."""
    try:
        return ActivationStore.open(place).complete
    except StoreError:
        return False


def _remains(home: Captures, before: datetime, dry_run: bool) -> Iterator[Freed]:
    """Hidden folders that a killed `delete`, `collect` or `repair` did not remove."""
    folder = Path(home.root.root)
    if home.root.scheme != "file" or not folder.is_dir():
        return
    for path in sorted(folder.glob(".*")):
        old = datetime.fromtimestamp(path.lstat().st_mtime, UTC) < before
        if old and re.fullmatch(LEFT_OVER, path.name) and path.is_dir() and not path.is_symlink():
            yield Freed(str(path), "half-deleted capture", _size(path))
            if not dry_run:
                shutil.rmtree(path)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _unpublished(catalog: Catalog, home: Captures, before: datetime, dry_run: bool) -> Iterator[Freed]:
    for place in home:
        # under the lock, so that nobody publishes or writes it between this check and the deletion
        with contextlib.nullcontext() if dry_run else place.lock():
            if home.refusal(place) or not _is_garbage(catalog, home, place, before):
                continue
            yield Freed(place.url, "unpublished capture", place.repository().total_chunks_storage())
            if not dry_run:
                place.delete()


def _is_garbage(catalog: Catalog, home: Captures, place: Location, before: datetime) -> bool:
    try:
        return is_store(place) and last_use(place) < before and not _is_published(catalog, home, place)
    except StoreError:
        return False  # a store that cannot be read may still be repaired


def _is_published(catalog: Catalog, home: Captures, place: Location) -> bool:
    """Whether a record names this place, or has the digest of the rows there: it may name them by another path."""
    if place in _published(catalog, home):
        return True
    try:
        digest = ActivationStore.open(place).layout.digest
    except Corrupt:  # its creator was killed before the template was written
        return False
    return digest is not None and digest in [artifact.header.get("digest") for artifact in catalog.list("capture")]


def _published(catalog: Catalog, home: Captures) -> set[Location]:
    places = set()
    for artifact in catalog.list("capture"):
        with contextlib.suppress(StoreError):  # a record that names no place
            places.add(home.locate(artifact.header))
    return places


def last_use(place: Location) -> datetime:
    """When a collection was last begun or resumed there, or last committed."""
    return max(newest(place), place.touched() or newest(place))


def newest(place: Location) -> datetime:
    """When the repository was last committed to."""
    return next(iter(place.repository().ancestry(branch=BRANCH))).written_at


def _old_snapshots(catalog: Catalog, home: Captures, before: datetime, dry_run: bool) -> Iterator[Freed]:
    """Forget snapshots that no branch and no tag names, and the chunks that only they had."""
    if dry_run:
        return  # how much that would free is not known before
    places = [place for place in _published(catalog, home) if not home.refusal(place)]
    for place in [*sorted(places, key=str), catalog.location]:
        if is_store(place):
            freed = _thin(place, before)
            if freed:
                yield Freed(place.url, "old snapshots", freed)


def _thin(place: Location, before: datetime) -> int:
    """Returns bytes freed."""
    with place.lock():
        repository = place.repository()
        repository.expire_snapshots(before)
        return int(repository.garbage_collect(before).bytes_deleted)
