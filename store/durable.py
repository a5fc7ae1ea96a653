"""Commits that survive a power cut: files that Icechunk wrote to a local folder are flushed before a commit returns.

Icechunk itself never calls fsync, so after a power cut an acknowledged commit might be lost, or the branch might name a
snapshot that does not exist. After a commit, all files and folders are flushed that changed since the snapshot at which
the session began.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


def flush(root: Path, since: int = 0) -> int:
    """fsync files and folders below `root` that were changed at `since` or later (nanoseconds, of the file system's own
    clock), and the one that holds `root`; returns how many."""
    changed = [path for folder in _folders(root) for path in (*_newer(folder, since), *_if_newer(folder, since))]
    changed += _if_newer(root.parent, since)
    for path in changed:
        _fsync(path)
    return len(changed)


def age_of(root: Path, snapshot: str) -> int:
    """When a snapshot's file was written, in nanoseconds; 0, so that everything is flushed, when there is no such
    file."""
    try:
        return (root / "snapshots" / snapshot).stat().st_mtime_ns
    except OSError:
        return 0


def _folders(root: Path) -> Iterator[Path]:
    """`root` and every folder below it, deepest first: a file must be on the disk before the folder that names it."""
    for folder, _, _ in os.walk(root, topdown=False):
        yield Path(folder)


def _newer(folder: Path, since: int) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a writer's temporary file, renamed meanwhile
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime_ns >= since:
                    yield entry.path


def _if_newer(folder: Path, since: int) -> list[str]:
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
