"""Digests of model folders: every byte of every file counts, since a fold or an edit changes a few tensors somewhere in
the middle. Large files are read once and their digests kept in the user's cache, as long as size, times and inode stay.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab.steering.model.cache import cache_folder
from trimtab.tasks.errors import RecipeError

PIECE = 1 << 26  # bytes that one thread digests at a time
SMALL = 1 << 20  # up to here, reading the file is as quick as asking the cache
SETTLED = 2.0  # seconds: a younger file may change again within the same tick of its clock


@dataclass(frozen=True)
class Stamp:
    """What the file system says of a file; it changes with every write."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    @property
    def settled(self) -> bool:
        return time.time() - max(self.mtime_ns, self.ctime_ns) / 1e9 > SETTLED


def folder_digest(folder: Path) -> str:
    """sha256 over the name, size and content of every file, hidden ones left out.

    Raises RecipeError when a file cannot be read or is being written.
    """
    digest = hashlib.sha256()
    for path in _files(folder):
        content = _content_digest(path)
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0{content}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    yield from sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path))


def _content_digest(path: Path) -> str:
    try:
        before = Stamp.of(path)
        cached = _recall(path, before)
        if cached is not None:
            return cached
        content = _tree_digest(path, before.size)
        after = Stamp.of(path)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    if after != before:
        raise RecipeError(f"{path}: is being written; run again when the checkpoint is complete")
    _remember(path, before, content)
    return content


def _tree_digest(path: Path, size: int) -> str:
    """sha256 over the sha256 of each piece: the pieces are digested side by side, hashlib lets go of the lock."""
    starts = range(0, max(size, 1), PIECE)
    with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as threads:
        pieces = threads.map(lambda start: _piece_digest(path, start), starts)
        return hashlib.sha256(b"".join(pieces)).hexdigest()


def _piece_digest(path: Path, start: int) -> bytes:
    digest, left = hashlib.sha256(), PIECE
    with path.open("rb") as file:
        file.seek(start)
        while left and (block := file.read(min(left, SMALL))):
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _note(path: Path) -> Path:
    return cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"


def _recall(path: Path, stamp: Stamp) -> str | None:
    if stamp.size <= SMALL:
        return None
    try:
        note = json.loads(_note(path).read_text())
        return str(note["digest"]) if note["stamp"] == asdict(stamp) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(path: Path, stamp: Stamp, digest: str) -> None:
    """A cache that cannot be written costs time, nothing else."""
    if stamp.size <= SMALL or not stamp.settled:
        return
    note = _note(path)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=note.parent)
        with os.fdopen(handle, "w") as file:
            json.dump({"path": str(path), "stamp": asdict(stamp), "digest": digest}, file)
        os.replace(part, note)
