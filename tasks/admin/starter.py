"""A starter: a recipe with data that runs as it is, copied from tasks/data/starter."""

from pathlib import Path

from trimtab.tasks.data.files import packaged
from trimtab.tasks.errors import RecipeError

FILES = ("recipe.yaml", "pairs.jsonl", "lexicon.json", "README.md")


def write_starter(folder: Path) -> list[Path]:
    """Write the starter into a new or empty folder. Raises RecipeError when there is something in it already."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder}: is a file; name a new or empty folder")
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if present:
        raise RecipeError(f"{folder}: is not empty (it holds {present[0]}); name a new or empty folder")
    texts = {name: packaged(f"starter/{name}").read_bytes() for name in FILES}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    return [folder / name for name in FILES]
