"""Read everything back and report what is not as it was written."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from trimtab.store.captures.activations import ActivationStore
from trimtab.store.captures.dtypes import all_finite
from trimtab.store.captures.schema import Region
from trimtab.store.catalog import nodes
from trimtab.store.catalog.artifact import Artifact, Content, seal
from trimtab.store.catalog.catalog import Catalog
from trimtab.store.catalog.payload import LazyArrays
from trimtab.store.catalog.places import Captures, is_store
from trimtab.store.digests import array_bytes
from trimtab.store.errors import Corrupt, StoreError
from trimtab.store.housekeeping import lost_catalog
from trimtab.store.location import BRANCH, Location

REPUBLISH = "publish it again from its recipe (a new version), and move aliases there"
RECOLLECT = "delete the store and collect it again"


@dataclass(frozen=True)
class Finding:
    """The result of checking one version, alias or capture. wrong, cure: empty when ok."""

    ok: bool
    thing: str
    wrong: str = ""
    cure: str = ""

    def __str__(self) -> str:
        return f"ok   {self.thing}" if self.ok else f"BAD  {self.thing}: {self.wrong}; {self.cure}."


def verify(catalog: Catalog) -> list[Finding]:
    """One finding per version, alias and capture (several for a bad one). Reads every byte."""
    findings: list[Finding] = []
    for artifact in _everything(catalog, findings):
        findings += _findings(artifact.ref, REPUBLISH, partial(_artifact, catalog, artifact))
        if artifact.kind == "capture":
            findings += _published_rows(catalog, artifact)
    return findings + _lost(catalog)


def _published_rows(catalog: Catalog, artifact: Artifact) -> list[Finding]:
    try:
        place = Captures.beside(catalog.location).locate(artifact.header)
    except StoreError as error:
        return [Finding(False, f"the rows of {artifact.ref}", str(error), REPUBLISH)]
    home = catalog.view().left_at(artifact.name, artifact.version)
    if home is not None and not is_store(place):
        return [Finding(True, f"the rows of {artifact.ref}, which stayed in {home}")]
    thing = f"capture {place.url}"
    cure = f"`trimtab repair {artifact.ref}` collects again what is damaged"
    digest = str(artifact.header.get("digest"))
    return _findings(thing, cure, lambda: _capture(ActivationStore.open(place), digest))


def _lost(catalog: Catalog) -> list[Finding]:
    """A finding when finished captures lie beside an empty catalog: it was lost, although nothing in it is damaged."""
    try:
        wrong = lost_catalog(catalog, Captures.beside(catalog.location))
    except StoreError:
        return []  # a catalog that cannot be read is a finding of its own
    return [Finding(False, catalog.location.url, wrong, "the captures are still there")] if wrong else []


def verify_capture(url: str | Location, digest: str | None = None) -> list[Finding]:
    """Findings about one capture: every row written once, finite, and with the digests that were recorded."""
    thing = f"capture {Location.parse(url).url}"
    return _findings(thing, RECOLLECT, lambda: _capture(ActivationStore.open(url), digest))


def _everything(catalog: Catalog, findings: list[Finding]) -> list[Artifact]:
    try:
        inventory = Catalog(catalog.location).inventory()  # a new one, without cached records
    except Exception as error:
        findings.append(Finding(False, catalog.location.url, _reason(error), "restore the folder from a backup"))
        return []
    findings += [Finding(False, defect.ref, *_wrong_and_cure(defect.wrong)) for defect in inventory.defects]
    return list(inventory.artifacts)


def _wrong_and_cure(text: str) -> tuple[str, str]:
    wrong, _, cure = text.partition("; ")
    return wrong, cure.rstrip(".") or "restore the folder from a backup"


def _findings(thing: str, cure: str, check: Callable[[], Iterator[str]]) -> list[Finding]:
    try:
        wrong = list(check())
    except Exception as error:  # broken bytes may raise anything at all, and each is a finding
        wrong = [_reason(error)]
    return [Finding(False, thing, text, cure) for text in wrong] or [Finding(True, thing)]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, StoreError) else f"{type(error).__name__}: {text}"


def _artifact(catalog: Catalog, artifact: Artifact) -> Iterator[str]:
    session = catalog.location.repository().readonly_session(BRANCH)
    record = nodes.attributes(session, f"artifacts/{artifact.name}/{artifact.version}") or {}
    if seal(record) != record.get("seal"):
        yield "its record (header, metrics, dates ...) is not what was published"
    assert isinstance(artifact.arrays, LazyArrays)
    for name in artifact.arrays:
        artifact.arrays[name]
    content = Content(artifact.kind, artifact.header, artifact.arrays.entries, artifact.parents, artifact.recipe)
    if content.digest != artifact.digest:
        yield f"its content digest is {content.digest[:12]}, recorded is {artifact.digest[:12]}"
    view = catalog.view()
    for parent in dict.fromkeys(artifact.parents):
        if view.get(parent.ref).digest != parent.digest:
            yield f"its parent {parent.ref} has another digest than when it was used"


def _capture(store: ActivationStore, digest: str | None) -> Iterator[str]:
    pending = store.pending_regions()
    if pending:
        yield f"{len(pending)} of {len(store.layout.regions)} regions were never written"
    written = [region for region in store.layout.regions if region not in pending]
    yield from (wrong for _, wrong in damaged_rows(store, written))
    yield from damaged_frame(store, digest)


def damaged_rows(store: ActivationStore, regions: Sequence[Region]) -> Iterator[tuple[Region, str]]:
    """(region, what is wrong) for each site's rows in these regions that are not what was written. Reads all of
    them."""
    recorded = store.region_digests()
    for region in regions:
        for i, site in enumerate(store.sites):
            wrong = _damage(store, site, region, recorded[region.number, i].tobytes())
            if wrong:
                yield region, f"{site}, rows {region.row_start}..{region.row_stop}: {wrong}"


def _damage(store: ActivationStore, site: str, region: Region, digest: bytes) -> str:
    try:
        values = store.stored_rows(site, region.row_start, region.row_stop)
    except Corrupt as error:
        return str(error)
    if not all_finite(values, store.layout.spec(site)):
        return "not finite"
    return "" if hashlib.sha256(array_bytes(values)).digest() == digest else "sha256 differs from what was written"


def damaged_frame(store: ActivationStore, digest: str | None) -> Iterator[str]:
    """What is wrong with everything but the rows: index, arrays, digests of regions. `store` must be newly opened, so
    that nothing is cached."""
    if not store.complete:
        yield "it was never finished"
        return
    recorded = store.region_digests()
    if store.layout.content_digest(recorded) != store.digest:
        yield "its index, arrays or region digests do not give its content digest"
    if digest not in (None, store.digest):
        yield f"it has digest {store.digest[:12]}, the catalog recorded {str(digest)[:12]}"
