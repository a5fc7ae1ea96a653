"""Deleting and garbage collection never touch what a published artifact still needs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from trimtab.store import ActivationStore, Catalog, Location, housekeeping
from trimtab.store.errors import Conflict, Invalid, NotFound
from trimtab.store.housekeeping import collect_garbage, delete
from trimtab.store.verify import verify


@pytest.fixture
def home(sample, samples, tmp_path):
    """(catalog, captures): one capture with a plan made from it, one without, one unpublished, one begun."""
    catalog, captures = Catalog(tmp_path / "catalog"), Location.parse(tmp_path / "captures")
    for number, name in ((0, "used"), (1, "unused")):
        store = samples(number, 40).collect(captures.child(name))
        catalog.publish_capture(name, store)
    samples(2, 40).collect(captures.child("unpublished"))
    begun = samples(3, 40).create(captures.child("begun"))
    with begun.region_writer(begun.pending_regions()[0]) as writer:
        samples(3, 40).fill(writer, begun.layout.regions[0])
    catalog.publish("plan", "plan", {"x": np.ones(3)}, {}, parents=["used"])
    return catalog, captures


def on_disk(place: Location) -> int:
    return sum(path.stat().st_size for path in Path(place.root).rglob("*") if path.is_file())


@pytest.fixture
def later(monkeypatch):
    """Two days have passed for whoever asks how old things are."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=2)

    monkeypatch.setattr(housekeeping, "datetime", Clock)


def test_what_is_needed_cannot_be_deleted(home) -> None:
    catalog, captures = home
    with pytest.raises(Conflict, match="plan@1 still needs it"):
        delete(catalog, "used")
    catalog.promote("plan", "prod")
    with pytest.raises(Conflict, match="plan@prod still needs it"):
        delete(catalog, "plan")
    with pytest.raises(NotFound):
        delete(catalog, "nothing")
    assert ActivationStore.open(captures.child("used")).complete
    assert all(finding.ok for finding in verify(catalog))


def test_deleting_takes_the_rows_along_and_never_gives_the_number_again(home, sample) -> None:
    catalog, captures = home
    assert delete(catalog, "unused@1").artifact.kind == "capture"
    assert not captures.child("unused").exists()
    for reader in (catalog, Catalog(catalog.location)):
        with pytest.raises(NotFound, match="unused@1 was deleted by"):
            reader.get("unused@1")
    catalog.publish("notes", "plan", {}, {"n": 1}, key="first")
    catalog.publish("notes", "plan", {}, {"n": 1}, key="second")  # the same content: noted under its other key
    delete(catalog, "notes@1")
    assert catalog.find("first") is None and catalog.find("second") is None
    assert catalog.publish("notes", "plan", {}, {"n": 2}).version == 2
    assert all(finding.ok for finding in verify(catalog))


def test_rows_that_two_names_share_stay(home, samples) -> None:
    catalog, captures = home
    catalog.publish_capture("again", ActivationStore.open(captures.child("unused")))
    delete(catalog, "unused")
    assert ActivationStore.open(captures.child("unused")).complete
    delete(catalog, "again")
    assert not captures.child("unused").exists()


def test_garbage_goes_by_age_and_leaves_what_is_published(home, later) -> None:
    catalog, captures = home
    store = ActivationStore.open(captures.child("used"))
    before = on_disk(captures.child("used"))
    dry = collect_garbage(catalog, captures, timedelta(days=1), dry_run=True)
    doomed = {one.place for one in dry if one.what == "unpublished capture"}
    assert doomed == {captures.child(name).url for name in ("begun", "unpublished")}
    assert captures.child("begun").exists()
    collect_garbage(catalog, captures, timedelta(days=1), dry_run=False)
    assert not captures.child("begun").exists() and not captures.child("unpublished").exists()
    after = ActivationStore.open(captures.child("used"))
    assert after.digest == store.digest
    assert on_disk(captures.child("used")) < before / 2, "what only old snapshots had is gone"
    assert after.snapshot_id == catalog.get("used").header["snapshot"]
    assert all(finding.ok for finding in verify(catalog))
    assert collect_garbage(catalog, captures, timedelta(days=1), dry_run=False) == []


def test_young_things_stay(home) -> None:
    catalog, captures = home
    assert not [one for one in collect_garbage(catalog, captures, timedelta(hours=2), False) if "unpub" in one.what]
    assert captures.child("begun").exists() and captures.child("unpublished").exists()
    with pytest.raises(Invalid, match="older than 1:00:00"):
        collect_garbage(catalog, captures, timedelta(minutes=59), False)
    assert housekeeping.newest(captures.child("begun")) < datetime.now(UTC)


def test_a_writer_beside_the_collector_is_not_harmed(home, samples) -> None:
    """A session that was open before and commits after: what it wrote is younger than anything that goes."""
    catalog, captures = home
    sample, store = samples(3, 40), ActivationStore.open(captures.child("begun"))
    fork, region = store.fork(), store.pending_regions()[0]
    with fork.region_writer(region) as writer:
        sample.fill(writer, region)
    collect_garbage(catalog, captures, timedelta(hours=1), False)
    store.merge([fork])
    assert sample.collect(captures.child("begun")).digest == sample.collect("memory://beside").digest
