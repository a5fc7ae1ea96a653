"""Where things lie: a local folder, memory, or S3. The only file that opens storage.

    Location.parse("runs/captures/a1")      a folder (also file:///...)
    Location.parse("memory://tests")        this process only
    Location.parse("s3://bucket/prefix")    credentials and endpoint from the usual AWS_* variables

A local folder is not safe for concurrent commits by itself (18 of 307 acknowledged commits were lost in
a test; 0 of 320 with a lock), so every commit there holds a cross-process file lock, which lies beside the
folder because Icechunk wants its folder clean.
"""

import atexit
import contextlib
import functools
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import icechunk
from filelock import FileLock
from zarr.core.sync import sync

from trimtab.store.clocks import in_order
from trimtab.store.digests import JSON
from trimtab.store.durable import age_of, flush
from trimtab.store.errors import Conflict, Corrupt, Invalid, NotFound, StoreError
from trimtab.store.urls import split_url

icechunk.set_logs_filter("off")  # it logs to stdout, among the JSON; what it says there it also raises

BRANCH = "main"
LEFT_OVER = r"\..+\.((deleted|damaged)-[0-9a-f]{8}|creating)"  # names under which a killed process may leave a folder
REST_SECONDS = 0.02
CREATION_SECONDS = 10.0  # for the files of a repository that somebody else is making

_memory: dict[str, icechunk.Storage] = {}
_memory_locks: dict[str, threading.RLock] = {}
_memory_guard = threading.Lock()


@dataclass(frozen=True)
class Location:
    """One place that holds one Icechunk repository (or, above it, a folder of such places).

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
        """True when a repository has been created here. Raises Corrupt when one lost its branch: it is not empty."""
        if self.scheme == "file" and not Path(self.root).is_dir():
            return False  # asking Icechunk would create the folder
        if _guarded(self, lambda: _has_branch(self)):
            return True
        if not _guarded(self, lambda: _was_made(self)):
            return False
        if not _guarded(self, lambda: _has_branch(self)):  # asked again: it may have been made since
            raise Corrupt(
                f"{self.url} has lost its branch (refs/branch.{BRANCH}/ref.json): its snapshots are there, and nothing "
                "in them can be found; restore that file from a backup, or run `trimtab repair`."
            )
        return True

    def repository(self, create: bool = False) -> icechunk.Repository:
        """Open the repository here; with `create`, make it first when there is none.

        Raises NotFound when there is none and `create` is false, Invalid when the folder holds other things.
        """
        if self.exists():
            return _guarded(self, lambda: icechunk.Repository.open(_storage(self)))
        if not create:
            raise NotFound(f"there is no store at {self.url}; collect or publish there first, or check the path.")
        with self.lock():
            if not self.exists():
                _create(self)
        return _guarded(self, lambda: icechunk.Repository.open(_storage(self)))

    def lock(self) -> contextlib.AbstractContextManager[object]:
        """Held around commits. Re-entrant per thread; keeps threads and processes apart; nothing on S3."""
        if self.scheme == "file":
            path = Path(self.root)
            path.parent.mkdir(parents=True, exist_ok=True)
            return _file_lock(str(path.parent / f".{path.name}.lock"))
        if self.scheme == "memory":
            with _memory_guard:
                return _memory_locks.setdefault(self.root, threading.RLock())
        return contextlib.nullcontext()

    def commit(
        self,
        session: icechunk.Session,
        message: str,
        metadata: Mapping[str, JSON] | None = None,
        rebase: bool = True,
    ) -> str:
        """Commit under the lock, moving over what others committed meanwhile; returns the snapshot id. With another
        machine's clock ahead, it waits (`clocks.py`).

        In a local folder the commit is on the disk when this returns (`durable.py`).
        Without `rebase`, any commit of others is a Conflict: what was looked up must be looked up again.
        Raises Conflict when others changed the same chunks or nodes: nothing of this session is visible then.
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
        """Bring what was written to a local folder to the disk: all of it, or what is not older than a snapshot."""
        if self.scheme == "file":
            flush(Path(self.root), age_of(Path(self.root), snapshot) if snapshot else 0)

    def touch(self) -> None:
        """Say that somebody works with the repository of a local folder: its own date becomes now."""
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
            with _memory_guard:
                _memory.pop(self.root, None)
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


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Icechunk's own errors as one line: a repository that is being made, moved or was damaged. Raises Corrupt."""
    try:
        yield
    except FileNotFoundError:  # Zarr's "no group here", which is a ValueError too
        raise
    except (icechunk.IcechunkError, ValueError, KeyError, TypeError) as error:  # the last three: damaged metadata
        raise Corrupt(f"{what} cannot be read: {one_line(error)}.") from error


def sound(session: icechunk.Session) -> icechunk.Session:
    """The same session, once its snapshot has been read.

    Why: over a snapshot that cannot be read, Icechunk's `get` and `list_dir` answer "nothing there", and a catalog
    would look empty. `exists` does fail. Raises Corrupt.
    """
    with readable(f"snapshot {session.snapshot_id}"):
        sync(session.store.exists("zarr.json"))
    return session


def one_line(error: Exception) -> str:
    """An Icechunk error without its frames and line breaks, at most 300 characters."""
    words = [word for word in str(error).split() if word not in ("x", "|", "`->", "|->")]
    return " ".join(words)[:300]


@functools.cache
def _file_lock(path: str) -> FileLock:
    # one object per path, or a thread that holds the lock would wait for itself
    return FileLock(path)


@functools.cache
def _rest_at_exit() -> None:
    """Icechunk's threads may still hold Python objects of calls that have returned; one that wants the interpreter lock
    while the interpreter ends aborts the process (6 of 1,800 small scripts; with this pause, 0 of 1,400)."""
    atexit.register(time.sleep, REST_SECONDS)


def _storage(location: Location) -> icechunk.Storage:
    _rest_at_exit()
    if location.scheme == "file":
        return icechunk.local_filesystem_storage(location.root)
    if location.scheme == "memory":
        with _memory_guard:
            if location.root not in _memory:
                _memory[location.root] = icechunk.in_memory_storage()
            return _memory[location.root]
    return _s3_storage(location.root)


def _s3_storage(root: str) -> icechunk.Storage:
    bucket, _, prefix = root.partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix or None,
        region=region,
        endpoint_url=endpoint,
        allow_http=bool(endpoint and endpoint.startswith("http://")),
        force_path_style=endpoint is not None,  # local servers answer no bucket.host names
        from_env=True,
    )


def _has_branch(location: Location) -> bool:
    try:
        return icechunk.Repository.exists(_storage(location))
    except icechunk.IcechunkError as error:
        if "cannot serialize ref json" in str(error):  # the file is there, and empty or garbage
            return False
        raise


def _was_made(location: Location) -> bool:
    """Whether a repository was made at a place that has no branch: a folder has snapshots then. Elsewhere nothing can
    be listed, and the configuration, which `_create` writes last, tells."""
    if location.scheme == "file":
        snapshots = Path(location.root) / "snapshots"
        return snapshots.is_dir() and any(snapshots.iterdir())
    return icechunk.Repository.fetch_config(_storage(location)) is not None


def _create(location: Location) -> None:
    """Make the repository; a local one under another name first: a kill leaves nothing half-made."""
    if location.scheme != "file":
        return _create_remote(location)
    path = Path(location.root)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Invalid(f"{path} exists, is not empty and is not a store; name an empty or a new folder.")
    making = path.parent / f".{path.name}.creating"
    shutil.rmtree(making, ignore_errors=True)
    icechunk.Repository.create(icechunk.local_filesystem_storage(str(making)))
    os.rename(making, path)


def _create_remote(location: Location) -> None:
    """Make it, or wait until somebody who was quicker has: between the first file and the branch nothing opens."""
    try:
        icechunk.Repository.create(_storage(location)).save_config()
    except icechunk.IcechunkError as error:
        _await_maker(location, error)


def _await_maker(location: Location, error: icechunk.IcechunkError) -> None:
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


def _guarded(location: Location, act):  # type: ignore[no-untyped-def]
    try:
        return act()
    except icechunk.IcechunkError as error:
        raise StoreError(
            f"cannot open {location.url}: {one_line(error)}. Check the address, the credentials and the network."
        ) from error
    except OSError as error:
        raise StoreError(f"cannot open {location.url}: {error}.") from error
