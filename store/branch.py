"""Repair of a repository in a folder that lost the file which names its newest snapshot."""

import json
import os
import tempfile
from pathlib import Path

import icechunk

from trimtab.store.errors import Corrupt, Invalid
from trimtab.store.location import BRANCH, Location
from trimtab.store.sessions import readable
from trimtab.store.storages import storage_at

SHARED = ("chunks", "manifests", "snapshots", "transactions")


def restore_branch(location: Location) -> str:
    """Write that file again; returns the id of the newest snapshot.

    Every commit begins at the newest snapshot and is made under a lock, so snapshots form one chain, and the youngest
    is the newest. If another one has the same parent, one of the two belongs to a commit that was never completed, and
    which one cannot be told.

    Raises Invalid when the place is not a folder or has its branch, Corrupt when the newest snapshot cannot be proved.
    """
    if location.scheme != "file":
        raise Invalid(f"{location.url}: only a folder's branch can be restored; use your bucket's object versions.")
    with location.lock():
        if _has_branch(location):
            raise Invalid(f"{location.url} has its branch; there is nothing to restore.")
        with readable(f"the snapshots of {location.url}"):
            last = _last(location, _snapshots(location))
        _write_branch(Path(location.root), last)
        return last


def _has_branch(location: Location) -> bool:
    try:
        return location.exists()
    except Corrupt:
        return False


def _snapshots(location: Location) -> list[icechunk.SnapshotInfo]:
    """All snapshots, oldest first. Icechunk opens nothing without a branch, so they are read from a temporary folder
    that links to the repository's folders and has a branch of its own."""
    names = os.listdir(Path(location.root) / "snapshots")
    with tempfile.TemporaryDirectory() as folder:
        for name in SHARED:
            os.symlink(Path(location.root) / name, Path(folder) / name)
        _write_branch(Path(folder), names[0])
        repository = icechunk.Repository.open(storage_at("file", folder))
        return sorted(map(repository.lookup_snapshot, names), key=lambda snapshot: snapshot.written_at)


def _last(location: Location, snapshots: list[icechunk.SnapshotInfo]) -> str:
    newest = snapshots[-1]
    siblings = [snapshot for snapshot in snapshots[:-1] if snapshot.parent_id == newest.parent_id]
    if siblings and newest.parent_id is not None:
        candidates = ", ".join(f"{s.id} ({s.message}, {s.written_at})" for s in [*siblings[-4:], newest])
        raise Corrupt(
            f"{location.url}: which snapshot is the last cannot be proved, these follow the same one: {candidates}; "
            f'restore the folder from a backup, or write {{"snapshot": ID}} to refs/branch.{BRANCH}/ref.json yourself.'
        )
    return newest.id


def _write_branch(root: Path, snapshot: str) -> None:
    path = root / "refs" / f"branch.{BRANCH}" / "ref.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"snapshot": snapshot}, separators=(",", ":")))
    os.replace(new, path)
