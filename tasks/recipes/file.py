"""A recipe file of any kind, read into its model: YAML, `key=value` overrides, one line per mistake."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from trimtab.tasks.data.sections import Part
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.recipes.problems import problem_lines
from trimtab.tasks.recipes.yaml import Document, override, read_document

P = TypeVar("P", bound=Part)


def has_section(path: str | os.PathLike[str], section: str) -> bool:
    """Whether a recipe file has this top-level key. Raises RecipeError when it is no recipe at all."""
    return section in read_document(Path(path)).data


def read_recipe(kind: type[P], path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> P:
    """File names in it are relative to its folder. Raises RecipeError: lines that begin with `file:line:`."""
    file = Path(path)
    document = read_document(file)
    for setting in overrides:
        document = override(document, setting)
    return validated(kind, document, file.parent)


def validated(kind: type[P], document: Document, folder: Path) -> P:
    """By way of JSON: strict, yet lists are tuples and a date is just text. Raises RecipeError."""
    try:
        return kind.model_validate_json(document.json(), context={"folder": str(folder)})
    except ValidationError as error:
        raise RecipeError(problem_lines(error, kind, document)) from None
