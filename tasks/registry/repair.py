"""Repair: rows of a published capture that were lost or damaged are collected again, from the recipe in its record,
with the same model. The version stays what it was, and so does everything that was made from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trimtab.store import ActivationStore, Artifact, Location
from trimtab.store.branch import restore_branch
from trimtab.store.captures.schema import Region
from trimtab.store.catalog.lineage import lineage
from trimtab.store.errors import Corrupt, NotFound, StoreError
from trimtab.store.verify import damaged_frame, damaged_rows
from trimtab.tasks.collecting.capture import collection_of, same_rows
from trimtab.tasks.collecting.filling import Collection, fill, refill
from trimtab.tasks.collecting.reuse import copy_known
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import collectable, make_recipe


@dataclass(frozen=True)
class Repair:
    """The result for one capture. ref: its version. wrong: the damage in words, empty when there was none. regions:
    number of regions that were collected again. computed: number of tokens that ran through the model for it."""

    ref: str
    wrong: str = ""
    regions: int = 0
    computed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Damage:
    """wrong: in words, empty for a sound capture. regions: what must be collected again; None means all of it."""

    wrong: str
    regions: tuple[Region, ...] | None = ()


def repair(home: Home, ref: str | None = None) -> list[Repair]:
    """Examine the catalog and all captures, or with `ref` those that this version was made from, and restore what is
    lost.

    Raises NotFound for an unknown `ref`, Mismatch when the model, data or machine are no longer those of the capture,
    and RecipeError when the data files are gone."""
    catalog = [*_repair_catalog(home)]
    return [*catalog, *(repair_capture(home, artifact) for artifact in _captures(home, ref))]


def _repair_catalog(home: Home) -> Iterator[Repair]:
    """A catalog that lost the file that names its last snapshot."""
    try:
        home.catalog.location.exists()
    except Corrupt as error:
        home.catalog.restore_branch()
        yield Repair("catalog", str(error))


def repair_capture(home: Home, artifact: Artifact) -> Repair:
    """One capture: sound ones are only read."""
    place, damage = home.captures.locate(artifact.header), damage_of(home, artifact)
    if not damage.wrong:
        return Repair(artifact.ref)
    if damage.regions is None and _has_branch_again(place) and not damage_of(home, artifact).wrong:
        return Repair(artifact.ref, damage.wrong)  # all that was lost was which snapshot is the last
    recipe = _recipe(artifact)
    with _threads(int(artifact.header["capture"].get("threads", torch.get_num_threads()))):
        if damage.regions is None and not _can_resume(place, artifact):
            place.set_aside()
        work = recipe(home)
        if work.store.location != place:
            raise Corrupt(
                f"{artifact.ref}: its record names {place.url}, its recipe collects to {work.store.location}."
            )
        regions, computed = _collect(work, home, damage)
    same_rows(artifact, work.store)
    return Repair(artifact.ref, damage.wrong, regions, computed)


def _has_branch_again(place: Location) -> bool:
    try:
        return bool(restore_branch(place))
    except (StoreError, OSError):
        return False


def damage_of(home: Home, artifact: Artifact) -> Damage:
    """What is lost or damaged of a published capture. Reads every row."""
    try:
        store = home.captures.open(artifact)
        frame = list(damaged_frame(store, str(artifact.header["digest"])))
        rows = [] if frame else list(damaged_rows(store, store.layout.regions))
    except StoreError as error:
        return Damage(str(error), None)
    if frame:
        return Damage("; ".join(frame), None)
    regions = {region.number: region for region, _ in rows}
    return Damage("; ".join(wrong for _, wrong in rows[:3]), tuple(regions.values()))


def _captures(home: Home, ref: str | None) -> Iterator[Artifact]:
    if ref is None:
        yield from home.catalog.list("capture")
        return
    for at in sorted({node.ref for _, node in lineage(home.catalog, ref).walk() if node.kind == "capture"}):
        yield home.catalog.get(at)


def _recipe(artifact: Artifact) -> Any:
    """home -> the collection that the capture's recipe asks for. Raises NotFound when it was published without one."""
    values = artifact.recipe
    if not isinstance(values, dict):
        raise NotFound(
            f"{artifact.ref} was published without a recipe; collect its rows as they were collected before."
        )
    recipe = collectable(make_recipe(values), artifact.ref)
    return lambda home: collection_of(recipe, home)


def _can_resume(place: Location, artifact: Artifact) -> bool:
    """Nothing is there, or an unfinished collection of the same: a repair that was stopped."""
    try:
        if not place.exists():
            return not Path(place.root).exists()
        store = ActivationStore.open(place)
    except StoreError:
        return False
    return not store.complete and store.capture.digest == artifact.header["capture_digest"]


def _collect(work: Collection, home: Home, damage: Damage) -> tuple[int, int]:
    """How many regions were collected again, and the tokens that took."""
    if damage.regions:
        counted = refill(work, damage.regions)
        for _, wrong in damaged_rows(work.store, damage.regions):
            raise Corrupt(f"{work.store.location.url}: {wrong}, after it was collected again: the disk may be failing.")
        return len(damage.regions), counted.computed
    copied = copy_known(work, home)
    counted = fill(work, work.store.pending_regions())
    work.store.finish()
    return len(work.store.layout.regions) - copied, counted.computed


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The last bit of a row depends on how many threads computed it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
