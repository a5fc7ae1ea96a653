"""Commits that outlive a power cut: what Icechunk wrote to a local folder is flushed before anybody is told of it.

Icechunk itself never asks the system to flush, so an acknowledged commit might be lost, or its branch name a snapshot
that is not there. After a commit, every file that is newer than the snapshot the session began at is flushed, and every
folder that got a name since.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


def flush(root: Path, since: int = 0) -> int:
    """fsync files and folders below `root` that were changed at `since` or later (nanoseconds, of the file system's own
    clock), and the one that holds `root`; returns how many."""
    changed = [path for folder in _folders(root) for path in (*_newer(folder, since), *_itself(folder, since))]
    changed += _itself(root.parent, since)
    for path in changed:
        _fsync(path)
    return len(changed)


def age_of(root: Path, snapshot: str) -> int:
    """When a snapshot's file was written; 0, so that everything is flushed, when it is not there."""
    try:
        return (root / "snapshots" / snapshot).stat().st_mtime_ns
    except OSError:
        return 0


def _folders(root: Path) -> Iterator[Path]:
    """Deepest first, so that a name is flushed after what it names."""
    for folder, _, _ in os.walk(root, topdown=False):
        yield Path(folder)


def _newer(folder: Path, since: int) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a writer's temporary file, renamed meanwhile
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime_ns >= since:
                    yield entry.path


def _itself(folder: Path, since: int) -> list[str]:
    return [str(folder)] if folder.stat().st_mtime_ns >= since else []


def _fsync(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS):  # a file system that cannot flush folders
            raise
    finally:
        os.close(handle)
