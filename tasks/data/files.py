"""Digests of files, and the files that come with trimtab."""

import hashlib
from functools import lru_cache
from pathlib import Path

from trimtab.tasks.errors import RecipeError

SHIPPED = Path(__file__).parent / "shipped"


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged(name: str) -> Path:
    """A file of tasks/data/shipped. Raises RecipeError when the installation lacks it."""
    path = SHIPPED / name
    if not path.is_file():
        raise RecipeError(f"{name}: missing from the installed package; install trimtab again")
    return path


@lru_cache(maxsize=32)
def packaged_digest(name: str) -> str:
    """sha256 of a packaged file."""
    return file_digest(packaged(name))
