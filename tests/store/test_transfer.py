"""Versions travel between homes with their lineage, and are there what they were here."""

from pathlib import Path

import numpy as np
import pytest

from trimtab.store import ActivationStore, Catalog
from trimtab.store.catalog.lineage import lineage
from trimtab.store.catalog.places import Captures
from trimtab.store.errors import Conflict, Corrupt, Invalid, NotFound
from trimtab.store.location import Location
from trimtab.store.transfer import copy_version
from trimtab.store.verify import verify


@pytest.fixture
def source(tmp_path, sample) -> Catalog:
    """A home with p@1, p@2 and p@3, the last of a capture by way of a verdict."""
    catalog = Catalog(tmp_path / "here" / "catalog")
    capture = sample.collect(tmp_path / "here" / "captures" / "abc")
    catalog.publish_capture("rows", capture, key="k")
    for i in range(2):
        catalog.publish("p", "plan", {"v": np.full(3, i)}, {"i": i})
    catalog.publish("p.verdict", "verdict", {}, {"x": 1}, ["rows@1"])
    catalog.publish("p", "plan", {"v": np.arange(5.0)}, {"i": 9}, ["p.verdict@1"], {"r": 1}, {"m": 1}, "key")
    catalog.remark("p@3", "tag", "good")
    catalog.remark("p@1", "tag", "old")
    catalog.remark("p", "description", "what it is")
    return catalog


def record(catalog: Catalog, ref: str) -> tuple:
    one = catalog.get(ref)
    arrays = {name: array.tobytes() for name, array in one.arrays.items()}
    return one.ref, one.digest, one.created, one.metrics, one.recipe, one.key, one.parents, dict(one.header), arrays


def test_a_copy_is_what_was_published_with_all_its_ancestors(source, tmp_path):
    target = Catalog(tmp_path / "there" / "catalog")
    result = copy_version(source, target, "p@3")
    assert [(one.ref, one.copied, one.rows) for one in result] == [
        ("rows@1", True, "left"),
        ("p.verdict@1", True, ""),
        ("p@3", True, ""),
    ]
    for ref in ("p@3", "p.verdict@1", "rows@1"):
        assert record(target, ref) == record(source, ref)
    assert target.versions("p") == [3] and target.find("key").ref == "p@3"
    assert (target.about("p@3").tags, target.about("p@3").description) == (("good",), "what it is")
    assert str(lineage(target, "p@3")) == str(lineage(source, "p@3"))
    assert all(finding.ok for finding in verify(target)), "rows that stayed elsewhere are no damage"
    again = copy_version(source, target, "p@3")
    assert not any(one.copied for one in again) and len(target.view().remarks("p").sound) == 2
    assert target.publish("p", "plan", {}, {"i": 10}).version == 4


def test_rows_travel_where_that_is_wanted_and_a_stopped_copy_goes_on(source, tmp_path, monkeypatch):
    target, wanted = Catalog(tmp_path / "there" / "catalog"), Captures.beside(source.location).open(source.get("rows"))
    commits, commit = [], ActivationStore.commit

    def stopped(self: ActivationStore, buffer: object) -> str:
        if len(commits) == 2:
            raise KeyboardInterrupt
        commits.append(1)
        return commit(self, buffer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ActivationStore, "commit", stopped)
        copy_version(source, target, "p", captures=True)
    assert target.names() == [], "no version before its rows"
    assert copy_version(source, target, "p", captures=True)[0].rows == "copied"
    copy = Captures.beside(target.location).open(target.get("rows"))
    assert copy.digest == wanted.digest and copy.location.url.startswith(str(tmp_path / "there"))
    for site in wanted.sites:
        assert np.array_equal(copy.rows(site), wanted.rows(site))
    assert all(finding.ok for finding in verify(target))


def test_there_and_back_over_s3(source, bucket, tmp_path):
    away, back = Catalog(f"{bucket}/team/catalog"), Catalog(tmp_path / "back" / "catalog")
    copy_version(source, away, "p@3", captures=True)
    copy_version(away, back, "p@3", captures=True)
    assert record(back, "p@3") == record(source, "p@3") and all(finding.ok for finding in verify(back))


def test_another_version_of_that_number_is_never_replaced(source, tmp_path):
    target = Catalog(tmp_path / "there" / "catalog")
    for i in range(3):
        target.publish("p", "plan", {}, {"other": i})
    with pytest.raises(Conflict, match="another p@3"):
        copy_version(source, target, "p@3")
    assert target.names() == ["p"] and target.get("p@3").header == {"other": 2}
    target.delete("p@1")
    with pytest.raises(Conflict, match="deleted"):
        copy_version(source, target, "p@1")


def test_what_is_damaged_here_does_not_travel(source, tmp_path):
    target = Catalog(tmp_path / "there" / "catalog")
    source.publish(
        "q", "plan", {"noise": np.random.default_rng(0).normal(size=3000)}, {}, ["p@3"]
    )  # a chunk of its own
    (chunk,) = Path(source.location.root, "chunks").iterdir()
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    with pytest.raises(Corrupt):
        copy_version(source, target, "q")
    assert target.names() == []


def test_nonsense_is_refused(source, tmp_path):
    with pytest.raises(NotFound):
        copy_version(source, Catalog(tmp_path / "there" / "catalog"), "nobody")
    with pytest.raises(Invalid):
        copy_version(source, Catalog(Location.parse(source.location.url)), "p@3")
    assert not (tmp_path / "there").exists()
