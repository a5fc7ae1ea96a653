"""Copying versions with their lineage from one home to another: digests are checked where they are read, and again
where they were written."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trimtab.store.captures.activations import ActivationStore
from trimtab.store.captures.layout import COLLECTING
from trimtab.store.catalog.artifact import Artifact
from trimtab.store.catalog.catalog import Catalog
from trimtab.store.catalog.places import Captures
from trimtab.store.catalog.view import NamedVersion, View
from trimtab.store.errors import Corrupt, Invalid
from trimtab.store.location import Location

CAPTURE = "capture"


@dataclass(frozen=True)
class Transferred:
    """One version of a copied lineage. copied: False when it was there already. rows: of a capture: "copied", "left"
    (they stay in the home it came from), "" for other kinds."""

    ref: str
    kind: str
    digest: str
    copied: bool
    rows: str = ""


def copy_version(source: Catalog, target: Catalog, ref: str, captures: bool = False) -> list[Transferred]:
    """Copy a version, everything it was made from, and what is said of them; returns the versions, ancestors first.

    Names, numbers, digests and seals stay. captures: the rows of its captures too; without, the copy says where they
    stay. Copying twice adds nothing; a copy that was stopped goes on. Aliases are not copied: what `prod` means is
    each home's own.

    Raises NotFound (ref), Corrupt (damaged here, or not the same there), Conflict (another version has that number).
    """
    if source.location == target.location:
        raise Invalid(f"{source.location.url} cannot be copied into itself; name another home.")
    view = source.view()
    artifacts = list(_ancestors_first(view, view.get(ref), set()))
    records = [view.record(artifact.name, artifact.version) for artifact in artifacts]
    rows = {artifact.ref: _copy_rows(source, target, artifact, captures) for artifact in artifacts}
    home = source.location.parent.url
    left: dict[NamedVersion, str] = {(a.name, a.version): home for a in artifacts if rows[a.ref] == "left"}
    added = set(target.adopt(records, left))
    _copy_remarks(view, target, artifacts)
    _check(target, artifacts)
    return [Transferred(a.ref, a.kind, a.digest, a.ref in added, rows[a.ref]) for a in artifacts]


def copy_capture(store: ActivationStore, place: Location) -> ActivationStore:
    """A finished capture at another place, region by region; resumes a copy that was stopped.

    Raises Corrupt when its rows are damaged, or the copy has another digest; Invalid for int8 rows, whose recorded
    error a copy would lose.
    """
    if store.layout.lossy:
        raise Invalid(f"{store.location.url} holds int8 rows, which are not copied; copy the folder with other tools.")
    copy = ActivationStore.lay_out(place, replace(store.layout, state=COLLECTING, digest=None))
    for region in copy.pending_regions():
        with copy.region_writer(region) as writer:
            for site in store.sites:
                writer.write(site, region.row_start, store.stored_rows(site, region.row_start, region.row_stop))
    if copy.finish().digest != store.digest:
        raise Corrupt(
            f"{store.location.url}: its rows do not give its digest; `trimtab verify` says which are damaged."
        )
    return copy


def _ancestors_first(view: View, artifact: Artifact, visited: set[str]) -> Iterator[Artifact]:
    """Every ancestor once, each before what was made from it. Raises Corrupt when one is not what it was."""
    visited.add(artifact.ref)
    for parent in artifact.parents:
        if parent.ref in visited:
            continue
        ancestor = view.get(parent.ref)
        if ancestor.digest != parent.digest:
            raise Corrupt(
                f"{parent.ref} has another digest than when {artifact.ref} was made from it; nothing is copied."
            )
        yield from _ancestors_first(view, ancestor, visited)
    yield artifact


def _copy_rows(source: Catalog, target: Catalog, artifact: Artifact, captures: bool) -> str:
    if artifact.kind != CAPTURE:
        return ""
    if not captures:
        return "left"
    place = Captures.beside(target.location).root.child(Captures.beside(source.location).locate(artifact.header).name)
    copy_capture(Captures.beside(source.location).open(artifact), place)
    return "copied"


def _copy_remarks(view: View, target: Catalog, artifacts: list[Artifact]) -> None:
    """What is said of the copied versions and their names, and who signed them, unless the target has it already."""
    for name in dict.fromkeys(artifact.name for artifact in artifacts):
        versions = {None, *(artifact.version for artifact in artifacts if artifact.name == name)}
        target.adopt_remarks(name, [remark for remark in view.remarks(name).sound if remark.version in versions])
        target.adopt_signatures(name, [one for one in view.signatures(name) if one.version in versions])


def _check(target: Catalog, artifacts: list[Artifact]) -> None:
    """Read everything back. Raises Corrupt when the target holds something else than was sent."""
    view = Catalog(target.location).view()
    for artifact in artifacts:
        copy = view.record(artifact.name, artifact.version)
        if copy.attributes["digest"] != artifact.digest:
            raise Corrupt(f"{artifact.ref} arrived in {view.place} with another digest; the storage may be failing.")
