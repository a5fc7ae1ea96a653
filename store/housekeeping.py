"""Room on the disk: delete what nobody needs, and drop chunks that no snapshot in use holds.

Everything goes by age. A collector beside an open writer takes chunks that the writer is about to commit, and the
commit then cannot be read; so nothing younger than the longest write is touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trimtab.store.artifact import Artifact
from trimtab.store.catalog import Catalog
from trimtab.store.errors import Invalid, StoreError
from trimtab.store.location import BRANCH, Location

YOUNGEST = timedelta(hours=1)


@dataclass(frozen=True)
class Freed:
    """What was (or would be) freed at one place. what: "unpublished capture" or "old snapshots". bytes: of chunks."""

    place: str
    what: str
    bytes: int


def delete(catalog: Catalog, ref: str) -> Artifact:
    """Delete a version; a capture's rows too, when no other version has them.

    Raises NotFound, Conflict when something still needs it, and StoreError where rows cannot be deleted (S3).
    """
    artifact = catalog.delete(ref)
    place = artifact.header.get("location")
    if artifact.kind == "capture" and place not in _published(catalog):
        Location.parse(str(place)).delete()
    return artifact


def collect_garbage(catalog: Catalog, captures: Location, older_than: timedelta, dry_run: bool) -> list[Freed]:
    """Delete captures below `captures` that were never published, and drop old snapshots of all others and of the
    catalog, as far as they are older than `older_than`. What a published version needs stays.

    Raises Invalid when `older_than` is shorter than an hour.
    """
    if older_than < YOUNGEST:
        raise Invalid(
            f"garbage must be older than {YOUNGEST}, not {older_than}: a running collection would be damaged."
        )
    before, published, freed = datetime.now(UTC) - older_than, _published(catalog), []
    for place in _below(captures):
        if place.url not in published and newest(place) < before:
            freed.append(Freed(place.url, "unpublished capture", place.repository().total_chunks_storage()))
            if not dry_run:
                place.delete()
    for place in map(Location.parse, sorted(published) + [catalog.location.url]):
        if place.exists():
            freed.append(Freed(place.url, "old snapshots", 0 if dry_run else _thin(place, before)))
    return [one for one in freed if one.bytes or one.what != "old snapshots"]


def newest(place: Location) -> datetime:
    """When the repository was last committed to."""
    return next(iter(place.repository().ancestry(branch=BRANCH))).written_at


def _published(catalog: Catalog) -> set[str]:
    return {Location.parse(str(artifact.header["location"])).url for artifact in catalog.list("capture")}


def _below(captures: Location) -> Iterator[Location]:
    """Captures in a local folder; what lies on S3 is not listed, and left alone."""
    folder = Path(captures.root)
    if captures.scheme != "file" or not folder.is_dir():
        return
    for path in sorted(folder.glob("[!.]*")):
        place = Location.parse(path)
        try:
            if place.exists():
                yield place
        except StoreError:
            continue  # not ours


def _thin(place: Location, before: datetime) -> int:
    """Forget snapshots that no branch and no tag names, and the chunks that only they had; returns bytes freed."""
    with place.lock():
        repository = place.repository()
        repository.expire_snapshots(before)
        return int(repository.garbage_collect(before).bytes_deleted)
