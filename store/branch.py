"""A way back for a local repository that lost the one file that names its last snapshot."""

import json
import os
import tempfile
from pathlib import Path

import icechunk

from trimtab.store.errors import Corrupt, Invalid
from trimtab.store.location import BRANCH, Location, readable

SHARED = ("chunks", "manifests", "snapshots", "transactions")


def restore_branch(location: Location) -> str:
    """Let the branch name the newest snapshot again; returns its id.

    Every commit to a catalog begins at the last snapshot and is made under a lock, so the newest one without a sibling
    is the last. A snapshot with siblings may be one whose commit never came to its end.

    Raises Invalid when the place is not a folder or has its branch, Corrupt when the last snapshot cannot be proved.
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
    """All of them, oldest first, read beside a branch of our own: without one Icechunk opens nothing."""
    names = os.listdir(Path(location.root) / "snapshots")
    with tempfile.TemporaryDirectory() as folder:
        for name in SHARED:
            os.symlink(Path(location.root) / name, Path(folder) / name)
        _write_branch(Path(folder), names[0])
        repository = icechunk.Repository.open(icechunk.local_filesystem_storage(folder))
        return sorted(map(repository.lookup_snapshot, names), key=lambda snapshot: snapshot.written_at)


def _last(location: Location, snapshots: list[icechunk.SnapshotInfo]) -> str:
    newest = snapshots[-1]
    siblings = [one for one in snapshots[:-1] if one.parent_id == newest.parent_id]
    if siblings and newest.parent_id is not None:
        named = ", ".join(f"{one.id} ({one.message}, {one.written_at})" for one in [*siblings[-4:], newest])
        raise Corrupt(
            f"{location.url}: which snapshot is the last cannot be proved, these follow the same one: {named}; restore "
            f'the folder from a backup, or write {{"snapshot": ID}} to refs/branch.{BRANCH}/ref.json yourself.'
        )
    return newest.id


def _write_branch(root: Path, snapshot: str) -> None:
    path = root / "refs" / f"branch.{BRANCH}" / "ref.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"snapshot": snapshot}, separators=(",", ":")))
    os.replace(new, path)
