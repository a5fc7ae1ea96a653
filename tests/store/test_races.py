"""Whatever two do to one catalog at once, it looks afterwards as if one had come after the other."""

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.store import Catalog, Location
from trimtab.store.errors import Conflict, NotFound


@pytest.fixture
def two(catalog) -> tuple[Catalog, Catalog]:
    """Two clients of one catalog that holds p@1 and p@2."""
    for i in (1, 2):
        catalog.publish("p", "plan", {}, {"i": i})
    return catalog, Catalog(catalog.location)


def test_what_was_looked_up_is_looked_up_again(two, meanwhile) -> None:
    """A promotion, a child and a second deletion of a version that is deleted meanwhile: NotFound, nothing changed."""
    one, other = two
    deeds: list[Callable[[str], object]] = [
        lambda ref: one.promote(ref, "prod"),
        lambda ref: one.publish("child", "verdict", {}, {}, parents=[ref]),
        lambda ref: one.delete(ref),
    ]
    for i, deed in enumerate(deeds):
        ref = one.publish("p", "plan", {}, {"deed": i}).ref
        with (
            meanwhile(lambda ref=ref: other.delete(ref, who="ann")),  # type: ignore[misc]
            pytest.raises(NotFound, match=f"{ref} was deleted by ann at 20"),
        ):
            deed(ref)
    assert one.names() == ["p"] and one.versions("p") == [1, 2] and one.aliases("p") == {}
    assert other.inventory().defects == []


def test_what_is_needed_meanwhile_is_not_deleted(two, meanwhile) -> None:
    one, other = two
    with (
        meanwhile(lambda: other.publish("c", "verdict", {}, {}, parents=["p@1"])),
        pytest.raises(Conflict, match="c@1"),
    ):
        one.delete("p@1")
    with meanwhile(lambda: other.promote("p@2", "prod")), pytest.raises(Conflict, match="p@prod"):
        one.delete("p@2")
    assert one.versions("p") == [1, 2] and one.inventory().defects == []


def test_numbers_and_moves_follow_one_another(two, meanwhile) -> None:
    one, other = two
    with meanwhile(lambda: other.publish("p", "plan", {}, {"i": 3})):
        assert one.publish("p", "plan", {}, {"i": 4}).version == 4
    with meanwhile(lambda: other.publish("p", "plan", {}, {"i": 5})):
        assert one.publish("p", "plan", {}, {"i": 5}).version == 5, "the same content is one version"
    with meanwhile(lambda: other.promote("p@1", "prod")):
        assert one.promote("p@2", "prod").before == 1
    assert [(move.before, move.after) for move in one.history("p")] == [(None, 1), (1, 2)]


def test_a_lost_answer_is_no_second_deed(two) -> None:
    """The commit was made and its answer was lost: the retry finds its own work."""
    one, _ = two
    commit = Location.commit
    lost = []

    def loses(self: Location, *arguments: object, **named: object) -> str:
        snapshot = commit(self, *arguments, **named)  # type: ignore[arg-type]
        if not lost:
            lost.append(snapshot)
            raise Conflict("somebody else was quicker")
        return snapshot

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Location, "commit", loses)
        assert one.delete("p@1").ref == "p@1"
        lost.clear()
        assert one.promote("p@2", "prod").before is None
        lost.clear()
        assert one.publish("p", "plan", {}, {"i": 3}).version == 3
    assert one.versions("p") == [2, 3] and len(one.history("p")) == 1


def test_ten_first_publishers_at_once(tmp_path) -> None:
    together(str(tmp_path / "catalog"), 10)


def together(place: str, many: int) -> None:
    barrier, errors = threading.Barrier(many), []

    def publish(who: int) -> None:
        catalog = Catalog(place)
        barrier.wait()
        try:
            catalog.publish("first", "plan", {}, {"who": who})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(who,)) for who in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert Catalog(place).versions("first") == list(range(1, many + 1))


def test_processes_that_publish_promote_and_delete(tmp_path, worker) -> None:
    """3 processes x 20 random deeds on two names: every alias and every parent names a version, no deletion is undone,
    no number is given twice."""
    jobs: list[multiprocessing.Process] = [worker("deeds", tmp_path, who) for who in range(3)]
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    catalog = Catalog(tmp_path / "catalog")
    there = {artifact.ref for artifact in catalog.list()}
    log = [line.split() for who in range(3) for line in Path(tmp_path / f"log{who}").read_text().splitlines()]
    published = [words[1] for words in log if words[0] == "published"]
    deleted = [words[1] for words in log if words[0] == "deleted"]
    assert len(set(published)) == len(published) and len(set(deleted)) == len(deleted)
    assert there == set(published) - set(deleted)
    assert catalog.inventory().defects == []
    assert {parent.ref for artifact in catalog.list() for parent in artifact.parents} <= there
