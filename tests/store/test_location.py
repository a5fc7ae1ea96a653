"""Where things lie, and that nothing leads out of it."""

import shutil
import threading

import numpy as np
import pytest

from trimtab.flows.cli import main
from trimtab.store import ActivationStore, Catalog, Location
from trimtab.store.errors import Invalid, NotFound, StoreError


@pytest.mark.parametrize(
    "text, url",
    [
        ("/a/b", "/a/b"),
        ("file:///a/b%20c", "/a/b c"),
        ("memory://x/y/", "memory://x/y"),
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix"),
    ],
)
def test_parse_and_back(text: str, url: str) -> None:
    location = Location.parse(text)
    assert location.url == url
    assert Location.parse(location.url) == location


@pytest.mark.parametrize("text", ["", "ftp://x/y", "memory://", "s3:///", "a\0b"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Location.parse(text)


@pytest.mark.parametrize("part", ["..", ".", "", "a/b", "/etc", "a\\b", ".hidden", "a\0"])
def test_children_cannot_escape(part: str) -> None:
    with pytest.raises(Invalid):
        Location.parse("/a/b").child("fine", part)


def test_child_of_each_scheme() -> None:
    assert Location.parse("/a").child("b", "c").url == "/a/b/c"
    assert Location.parse("s3://bucket").child("b").url == "s3://bucket/b"


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_create_open_delete(scheme: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    location = Location.parse(tmp_path / "x" / "y" if scheme == "file" else "memory://create-open-delete")
    assert not location.exists()
    with pytest.raises(NotFound):
        location.repository()
    assert not (tmp_path / "x").exists(), "asking must not create anything"
    location.repository(create=True)
    location.repository(create=True)
    assert location.exists()
    location.delete()
    location.delete()
    assert not location.exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Invalid, match="not a store"):
        Location.parse(tmp_path).repository(create=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_killed_creation_does_not_block_the_next(tmp_path) -> None:  # type: ignore[no-untyped-def]
    half = tmp_path / ".store.creating" / "snapshots"
    half.mkdir(parents=True)
    (half / "X").write_text("half")
    Location.parse(tmp_path / "store").repository(create=True)
    assert Location.parse(tmp_path / "store").exists()


def test_lock_is_reentrant_and_keeps_threads_apart(tmp_path) -> None:  # type: ignore[no-untyped-def]
    location = Location.parse(tmp_path / "store")
    inside: list[str] = []
    other = threading.Thread(target=lambda: _enter(location, inside))
    with location.lock(), location.lock():
        other.start()
        other.join(0.2)
        assert inside == []
    other.join(5)
    assert inside == ["in"]


def _enter(location: Location, inside: list[str]) -> None:
    with location.lock():
        inside.append("in")


def test_a_store_with_a_file_missing_is_one_clear_line(tmp_path) -> None:
    """As a reader sees it who comes while a store is made or moved, and as damage looks: no error of Icechunk's."""
    whole = tmp_path / "whole"
    Catalog(whole).publish("thing", "plan", {"v": np.arange(4.0)}, {"kind": "plan"})
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    refused = 0
    for number, file in enumerate(files):
        broken = tmp_path / f"broken{number}"
        shutil.copytree(whole, broken)
        (broken / file).unlink()
        for look in (lambda place: Catalog(place).names(), ActivationStore.open):
            try:
                look(broken)
            except StoreError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > len(files), "an ActivationStore is refused each time, a catalog when its snapshots are gone"


def test_a_store_that_is_moved_while_it_is_opened_is_one_clear_line(tmp_path) -> None:
    """A writer makes a repository under another name and renames it; who had opened it there finds nothing."""
    place = Location.parse(str(tmp_path / "making"))
    repository = place.repository(create=True)
    shutil.move(tmp_path / "making", tmp_path / "made")
    with pytest.raises(StoreError, match="making cannot be read: "):
        ActivationStore(place, repository)


SECRET = "s3://user:HUSH@bucket/x", "s3://HUSH@bucket", "ftp://u:HUSH@host/x", "s3://bucket/x?key=HUSH", "s3://b/x#HUSH"


@pytest.mark.parametrize("url", [*SECRET, "file:///tmp/x?HUSH", "s3://[HUSH@x"])
def test_what_a_place_cannot_have_is_refused_and_not_repeated(url, capsys) -> None:
    """Credentials, queries and fragments; at the command line before Prefect could keep them."""
    with pytest.raises(Invalid) as caught:
        Location.parse(url)
    assert "HUSH" not in str(caught.value)
    assert main(["--home", url, "run", "recipe.yaml"]) == 2
    out, err = capsys.readouterr()
    assert "HUSH" not in out + err and err.count("\n") == 1


def test_an_odd_folder_is_a_folder(tmp_path) -> None:
    assert Location.parse(f"{tmp_path}/a?b#c@d").root == f"{tmp_path}/a?b#c@d"
