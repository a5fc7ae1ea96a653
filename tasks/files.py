"""Files that come with trimtab, and digests of what a path holds."""

import hashlib
from functools import lru_cache
from pathlib import Path

from trimtab.tasks.data_files import file_digest
from trimtab.tasks.errors import RecipeError

DATA = Path(__file__).parent / "data"
WHOLE = 1 << 22
SAMPLE = 1 << 20


def packaged(name: str) -> Path:
    """A file of tasks/data. Raises RecipeError when the installation lacks it."""
    path = DATA / name
    if not path.is_file():
        raise RecipeError(f"{name}: missing from the installed package; install trimtab again")
    return path


@lru_cache(maxsize=32)
def packaged_digest(name: str) -> str:
    """sha256 of a packaged file."""
    return file_digest(packaged(name))


def folder_digest(folder: Path) -> str:
    """What tells two model folders apart: every file's name and size, the bytes of small ones, and of large ones the
    first and last MiB. Reading all of the weights for a cache key would take longer than using them."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder)):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read() if size <= WHOLE else file.read(SAMPLE))
            if size > WHOLE:
                file.seek(-SAMPLE, 2)
                digest.update(file.read())
    return digest.hexdigest()


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
