"""Where things lie: a local folder, memory, or S3.

    Location.parse("runs/captures/a1")      a folder (also file:///...)
    Location.parse("memory://tests")        this process only
    Location.parse("s3://bucket/prefix")    credentials and endpoint from the usual AWS_* variables

A local folder is not safe for concurrent commits by itself (18 of 307 acknowledged commits were lost in a test; 0 of
320 with a lock), so every commit there holds a file lock between processes. The lock's file lies beside the folder, in
which Icechunk wants no other files.
"""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import icechunk

from trimtab.store.clocks import in_order
from trimtab.store.digests import JSON
from trimtab.store.durable import age_of, flush
from trimtab.store.errors import Conflict, Corrupt, Invalid, NotFound, StoreError
from trimtab.store.sessions import one_line, opened
from trimtab.store.storages import forget_memory, lock_at, storage_at
from trimtab.store.urls import split_url

BRANCH = "main"
LEFT_OVER = r"\..+\.((deleted|damaged)-[0-9a-f]{8}|creating)"  # names under which a killed process may leave a folder
CREATION_SECONDS = 10.0  # to wait for the files of a repository that another process is creating


@dataclass(frozen=True)
class Location:
    """A place of one Icechunk repository, or of a folder with several of them.

    scheme: "file", "memory" or "s3".  root: an absolute folder, a memory name, or "bucket/prefix".
    """

    scheme: str
    root: str

    @staticmethod
    def parse(url: "str | os.PathLike[str] | Location") -> "Location":
        """Read a URL or a folder path. Raises Invalid for an unknown scheme, no place, credentials in a URL."""
        if isinstance(url, Location):
            return url
        return Location(*split_url(os.fspath(url)))

    @property
    def url(self) -> str:
        """The text that `parse` turns back into this location."""
        return self.root if self.scheme == "file" else f"{self.scheme}://{self.root}"

    def __str__(self) -> str:
        return self.url

    def child(self, *parts: str) -> "Location":
        """A place below this one. Raises Invalid for parts that could lead out of it or hide in it."""
        for part in parts:
            if not part or part.startswith(".") or any(c in part for c in "/\\\0"):
                raise Invalid(f"{part!r} cannot be a place below {self.url}: no separators, no leading dot, not empty.")
        return Location(self.scheme, "/".join((self.root.rstrip("/"), *parts)))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.root.rpartition("/")[2]

    @property
    def parent(self) -> "Location":
        """The place above this one."""
        return Location(self.scheme, self.root.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether a repository was created here. Raises Corrupt when there is one that lost its branch, StoreError when
        the place cannot be reached."""
        if self.scheme == "file" and not Path(self.root).is_dir():
            return False  # asking Icechunk would create the folder
        if opened(self.url, lambda: _has_branch(self)):
            return True
        if not opened(self.url, lambda: _was_made(self)):
            return False
        if not opened(self.url, lambda: _has_branch(self)):  # once more: it may have been created since
            raise Corrupt(
                f"{self.url} has lost its branch (refs/branch.{BRANCH}/ref.json): its snapshots are there, and nothing "
                "in them can be found; restore that file from a backup, or run `trimtab repair`."
            )
        return True

    def repository(self, create: bool = False) -> icechunk.Repository:
        """Open the repository here; with `create`, create it first when there is none.

        Raises NotFound when there is none and `create` is false, Invalid when the folder holds other things.
        """
        if self.exists():
            return opened(self.url, lambda: icechunk.Repository.open(self._storage()))
        if not create:
            raise NotFound(f"there is no store at {self.url}; collect or publish there first, or check the path.")
        with self.lock():
            if not self.exists():
                _create(self)
        return opened(self.url, lambda: icechunk.Repository.open(self._storage()))

    def lock(self) -> contextlib.AbstractContextManager[object]:
        """To be held around commits. Re-entrant per thread; keeps threads and processes apart; nothing on S3, where
        commits are safe without."""
        return lock_at(self.scheme, self.root)

    def _storage(self) -> icechunk.Storage:
        return storage_at(self.scheme, self.root)

    def commit(
        self,
        session: icechunk.Session,
        message: str,
        metadata: Mapping[str, JSON] | None = None,
        rebase: bool = True,
    ) -> str:
        """Commit under the lock; returns the snapshot id. In a local folder it is on the disk then (`durable.py`).

        rebase: whether commits that others made since the session began are accepted, as long as they changed other
        chunks and nodes. Without it any such commit is a Conflict, so that look-ups can be made again.
        Waits when another machine's clock is ahead (`clocks.py`).
        Raises Conflict, ClockSkew; nothing of the session is visible then.
        """
        solver = icechunk.ConflictDetector() if rebase else None
        base = session.snapshot_id
        with self.lock():
            try:
                snapshot = in_order(self.url, lambda: session.commit(message, dict(metadata or {}), rebase_with=solver))
                self.flush(base)
                return snapshot
            except (icechunk.ConflictError, icechunk.RebaseFailedError) as error:
                raise Conflict(
                    f"{self.url}: somebody else changed the same data first ({message}); nothing was "
                    "written, open it again and retry."
                ) from error

    def flush(self, snapshot: str = "") -> None:
        """Flush files of a local folder to the disk: all, or those that are not older than a snapshot."""
        if self.scheme == "file":
            flush(Path(self.root), age_of(Path(self.root), snapshot) if snapshot else 0)

    def touch(self) -> None:
        """Mark the repository of a local folder as in use: the folder's date becomes now."""
        if self.scheme == "file" and os.path.isdir(self.root):
            os.utime(self.root)

    def touched(self) -> datetime | None:
        """When the repository's folder was last touched; None where that cannot be known."""
        if self.scheme != "file":
            return None
        return datetime.fromtimestamp(os.stat(self.root).st_mtime, UTC)

    def free_bytes(self) -> int | None:
        """Bytes free on the disk of a local folder; None where that cannot be known."""
        if self.scheme != "file":
            return None
        folder = Path(self.root)
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def set_aside(self) -> None:
        """Take a damaged repository out of the way, under a hidden name beside it; garbage collection frees it by age.

        Raises StoreError where nothing can be renamed (S3).
        """
        if self.scheme != "file":
            raise StoreError(f"{self.url} is damaged: remove what is left of it (aws s3 rm --recursive), then repair.")
        with self.lock():
            path = Path(self.root)
            aside = path.parent / f".{path.name}.damaged-{uuid.uuid4().hex[:8]}"
            path.rename(aside)
            os.utime(aside)

    def delete(self) -> None:
        """Remove the repository and everything in it. A missing one is no error."""
        if self.scheme == "memory":
            forget_memory(self.root)
            return
        if self.scheme == "s3":
            raise StoreError(f"{self.url}: deleting on S3 is left to your bucket's own tools (aws s3 rm --recursive).")
        with self.lock():
            path = Path(self.root)
            if path.exists():
                # renamed first, so that a kill in between leaves no half-deleted store under the old name
                doomed = path.parent / f".{path.name}.deleted-{uuid.uuid4().hex[:8]}"
                path.rename(doomed)
                shutil.rmtree(doomed)


def _has_branch(location: Location) -> bool:
    try:
        return icechunk.Repository.exists(location._storage())
    except icechunk.IcechunkError as error:
        if "cannot serialize ref json" in str(error):  # the file is there, and empty or garbage
            return False
        raise


def _was_made(location: Location) -> bool:
    """Whether a place without a branch had a repository: a folder has snapshots then. Other places cannot be listed;
    they have the configuration, which `_create_remote` writes last."""
    if location.scheme == "file":
        snapshots = Path(location.root) / "snapshots"
        return snapshots.is_dir() and any(snapshots.iterdir())
    return icechunk.Repository.fetch_config(location._storage()) is not None


def _create(location: Location) -> None:
    """Create the repository; a local one under another name first, so that a kill leaves nothing half-made.

    Raises Invalid when the folder holds other things.
    """
    if location.scheme != "file":
        return _create_remote(location)
    path = Path(location.root)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Invalid(f"{path} exists, is not empty and is not a store; name an empty or a new folder.")
    partial = path.parent / f".{path.name}.creating"
    shutil.rmtree(partial, ignore_errors=True)
    icechunk.Repository.create(storage_at("file", str(partial)))
    os.rename(partial, path)


def _create_remote(location: Location) -> None:
    """Create it, or wait for another process that is creating it: nothing opens before its branch is written."""
    try:
        icechunk.Repository.create(location._storage()).save_config()
    except icechunk.IcechunkError as error:
        _await_creator(location, error)


def _await_creator(location: Location, error: icechunk.IcechunkError) -> None:
    if not any(word in str(error) for word in ("clean prefix", "conflict")):
        raise StoreError(f"cannot make a store at {location.url}: {one_line(error)}.") from error
    deadline = time.monotonic() + CREATION_SECONDS
    while not location.exists():
        if time.monotonic() > deadline:
            raise Corrupt(
                f"{location.url} holds objects and no branch (refs/branch.{BRANCH}/ref.json): it lost it, or whoever "
                "was making it was killed; restore that object, or name an empty place."
            ) from error
        time.sleep(0.05)
