"""A home can be copied, moved and reached through a link: nothing that another name or home needs is ever removed."""

import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from trimtab.store import ActivationStore, Catalog, Location, housekeeping
from trimtab.store.catalog.places import Captures
from trimtab.store.errors import Conflict, Corrupt, NotFound
from trimtab.store.housekeeping import collect_garbage, delete
from trimtab.store.verify import verify


class Home:
    """One home, reached through `path`."""

    def __init__(self, path: Path) -> None:
        self.path, self.catalog = path, Catalog(path / "catalog")
        self.captures = Captures.beside(self.catalog.location)

    def publish(self, name: str, store: ActivationStore) -> None:
        self.catalog.publish_capture(name, store)

    def collect(self, name: str, sample) -> ActivationStore:
        return sample.collect(self.captures.root.child(name))

    def gc(self) -> list[housekeeping.Freed]:
        return collect_garbage(self.catalog, self.captures.root, timedelta(days=7), dry_run=False)

    def bad(self) -> list[str]:
        return [str(finding) for finding in verify(self.catalog) if not finding.ok]

    def rows(self, ref: str) -> np.ndarray:
        return self.captures.open(self.catalog.get(ref)).rows("resid_post.1")


@pytest.fixture
def home(tmp_path, samples) -> Home:
    """One published capture, in a folder named as the collecting task names it."""
    one = Home(tmp_path / "one")
    one.publish("acts", one.collect("c0ffee", samples(0, 10)))
    return one


@pytest.fixture
def old_records(monkeypatch) -> None:
    """Records as they were written before places were relative."""
    monkeypatch.setattr(Captures, "_relative", lambda self, place: place.url)


@pytest.fixture
def later(monkeypatch) -> None:
    """Ten days have passed."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=10)

    monkeypatch.setattr(housekeeping, "datetime", Clock)


@pytest.fixture(params=["relative", "absolute"])
def records(request) -> None:
    """Both ways in which a record may name its rows."""
    if request.param == "absolute":
        request.getfixturevalue("old_records")


def test_a_copy_deletes_its_own_rows_only(records, home, tmp_path) -> None:
    shutil.copytree(home.path, tmp_path / "two")
    two = Home(tmp_path / "two")
    assert delete(two.catalog, "acts@1").rows_stay == ""
    assert not (two.path / "captures" / "c0ffee").exists(), "a copy's own rows go"
    assert home.bad() == [] and len(home.rows("acts@1"))


def test_gc_through_a_link_or_after_a_move_keeps_what_is_published(records, home, tmp_path, later) -> None:
    (tmp_path / "link").symlink_to(home.path)
    assert [freed for freed in Home(tmp_path / "link").gc() if freed.what != "old snapshots"] == []
    assert home.bad() == []
    moved = Home(home.path.rename(tmp_path / "moved"))
    assert [freed for freed in moved.gc() if freed.what != "old snapshots"] == []
    assert moved.bad() == [] and len(moved.rows("acts@1"))


def test_deleting_through_a_link_keeps_rows_that_another_name_has(records, home, tmp_path) -> None:
    (tmp_path / "link").symlink_to(home.path)
    link = Home(tmp_path / "link")
    link.publish("again", ActivationStore.open(link.captures.root.child("c0ffee")))
    assert "acts@1 has the same rows" in delete(link.catalog, "again@1").rows_stay
    assert home.bad() == [] and len(home.rows("acts@1"))
    assert delete(home.catalog, "acts@1").rows_stay == "" and not (home.path / "captures" / "c0ffee").exists()


def test_records_name_the_place_relative_to_the_home_by_any_path(home, tmp_path, samples) -> None:
    (tmp_path / "link").symlink_to(home.path)
    link = Home(tmp_path / "link")
    home.publish("linked", link.collect("beef", samples(1, 10)))
    assert home.catalog.get("acts").header["location"] == "captures/c0ffee"
    assert home.catalog.get("linked").header["location"] == "captures/beef"
    assert home.bad() == []


def _elsewhere(place: Path, sample) -> None:
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("years of work")


def _other_store(place: Path, sample) -> None:
    sample.collect(place)


@pytest.mark.parametrize("fill", [_elsewhere, _other_store])
@pytest.mark.parametrize("where", ["outside", "inside", "link", "dots"])
def test_only_a_store_of_this_home_is_ever_removed(home, tmp_path, samples, fill, where) -> None:
    """Whatever a record names, with the digest of other rows or of those very rows."""
    inside, outside = home.path / "captures" / "precious", tmp_path / "precious"
    fill(inside if where == "inside" else outside, samples(2, 10))
    if where == "link":
        inside.symlink_to(outside)
    location = {"outside": str(outside), "dots": "captures/../../precious"}.get(where, "captures/precious")
    place = Location.parse(inside if where in ("inside", "link") else outside)
    true = ActivationStore.open(place).digest if fill is _other_store else "0" * 64
    for name, digest in (("evil", "0" * 64), ("known", true)):
        if where == "inside" and name == "known" and fill is _other_store:
            continue  # these are its rows
        home.catalog.publish(name, "capture", {}, {"location": location, "digest": digest})
        before = sorted(Path(place.root).rglob("*"))
        kept = delete(home.catalog, f"{name}@1").rows_stay
        assert (kept or where == "outside") and "\n" not in kept
        assert sorted(Path(place.root).rglob("*")) == before
        with pytest.raises(NotFound):
            home.catalog.get(name)
    assert home.bad() == []


def test_captures_on_another_disk_are_not_removed_by_a_copy(home, tmp_path) -> None:
    """A link at `captures` is shared by copies of the home."""
    (home.path / "captures").rename(tmp_path / "disk")
    (home.path / "captures").symlink_to(tmp_path / "disk")
    shutil.copytree(home.path, tmp_path / "two", symlinks=True)
    assert "outside this home" in delete(Home(tmp_path / "two").catalog, "acts@1").rows_stay
    assert home.bad() == [] and len(home.rows("acts@1"))


def test_what_was_published_is_what_is_read(home, samples) -> None:
    """Lost rows and other rows are one clear line with the cure."""
    (home.path / "captures" / "c0ffee").rename(home.path / "captures" / "away")
    with pytest.raises(NotFound, match=r"the rows of acts@1 are lost: .*c0ffee; `trimtab repair acts@1` collects"):
        home.rows("acts@1")
    home.collect("c0ffee", samples(5, 10))
    with pytest.raises(Corrupt, match=r"acts@1 was published with .*; `trimtab repair acts@1`"):
        home.rows("acts@1")
    assert any("repair acts@1" in line for line in home.bad())


@pytest.mark.parametrize("lost", ["absent", "empty", "new"])
def test_gc_frees_nothing_when_the_catalog_is_lost(home, later, lost) -> None:
    shutil.rmtree(home.path / "catalog")
    if lost == "empty":
        (home.path / "catalog").mkdir()
    if lost == "new":
        home.catalog.location.repository(create=True)
    again = Home(home.path)
    with pytest.raises(Corrupt, match="nothing is freed: the catalog .* is empty or absent, but .* 1 finished"):
        again.gc()
    assert (home.path / "captures" / "c0ffee").is_dir()
    assert len(again.bad()) == 1 and "is empty or absent" in again.bad()[0]


def test_a_home_whose_versions_were_all_deleted_is_in_order(home, later, samples) -> None:
    delete(home.catalog, "acts@1")
    home.collect("left", samples(1, 10))
    assert home.bad() == [] and [freed.what for freed in home.gc()][0] == "unpublished capture"


def test_what_a_killed_process_left_is_freed_by_age(home, later, tmp_path) -> None:
    captures = home.path / "captures"
    for name in (".c0ffee.deleted-0a1b2c3d", ".beef.creating", ".mine", ".c0ffee.deleted-elsewhere"):
        (captures / name).mkdir()
        (captures / name / "chunk").write_bytes(b"x" * 100)
    (tmp_path / "thesis").mkdir()
    (captures / ".link.deleted-0a1b2c3d").symlink_to(tmp_path / "thesis")
    freed = home.gc()
    assert [one.bytes for one in freed if one.what == "half-deleted capture"] == [100, 100]
    left = {path.name for path in captures.glob(".*") if path.suffix != ".lock"}
    assert left == {".mine", ".c0ffee.deleted-elsewhere", ".link.deleted-0a1b2c3d"} and (tmp_path / "thesis").is_dir()


def test_gc_leaves_a_capture_that_is_being_resumed(home, samples, monkeypatch) -> None:
    """Its last commit is ten days old, the collection that goes on with it has just begun."""
    sample, place = samples(3, 10), home.captures.root.child("begun")
    store = sample.create(place)
    with store.region_writer(store.pending_regions()[0]) as writer:
        sample.fill(writer, store.layout.regions[0])
    ago = datetime.now().timestamp() - 10 * 86400
    os.utime(place.root, (ago, ago))
    monkeypatch.setattr(housekeeping, "newest", lambda _: datetime.fromtimestamp(ago, housekeeping.UTC))
    resumed = sample.create(place)
    assert [freed.what for freed in home.gc()] == []
    assert sample.collect(place).digest == resumed.finish().digest
    os.utime(place.root, (ago, ago))
    assert [freed.what for freed in home.gc()] == ["unpublished capture"]


def test_gc_asks_what_is_published_at_the_moment_of_freeing(home, samples, later, monkeypatch) -> None:
    """Somebody publishes while the collector looks at the capture before."""
    stores = [home.collect(name, samples(seed, 10)) for seed, name in ((1, "aa"), (2, "bb"))]
    freeing = Location.delete

    def publish_meanwhile(place: Location) -> None:
        freeing(place)
        Catalog(home.path / "catalog").publish_capture("late", stores[1])

    monkeypatch.setattr(Location, "delete", publish_meanwhile)
    freed = [Path(one.place).name for one in home.gc() if one.what == "unpublished capture"]
    assert freed == ["aa"] and home.bad() == []


def test_a_capture_that_cannot_fit_leaves_nothing_behind(home, sample, monkeypatch) -> None:
    monkeypatch.setattr(Location, "free_bytes", lambda _: 10)
    with pytest.raises(Exception, match="cannot fit"):
        sample.create(home.captures.root.child("large"))
    assert [place.name for place in home.captures] == ["c0ffee"]


def test_deleting_what_is_needed_is_refused_before_anything_is_removed(home) -> None:
    home.catalog.publish("plan", "plan", {}, {}, parents=["acts"])
    with pytest.raises(Conflict, match="plan@1 still needs it"):
        delete(home.catalog, "acts@1")
    assert home.bad() == []
