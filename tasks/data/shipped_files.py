"""Files that come with trimtab."""

from functools import lru_cache
from pathlib import Path

from trimtab.tasks.data.jsonl import file_digest
from trimtab.tasks.errors import RecipeError

DATA = Path(__file__).parent / "shipped"


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
