"""Whether a command may need the model hub. Asked before transformers is imported, because the hub's client reads its
offline switch only then; so this file imports nothing heavy."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from trimtab.store import Catalog, StoreError
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.of_plan import base_values
from trimtab.tasks.recipes.yaml import read_document

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def needs_hub(arguments: Sequence[str], home: str | None) -> bool:
    """True when a recipe, a `--set model=...`, a `--model ...` or an artifact among the arguments names a hub id.

    Wrong files and references are no errors here: the command itself says what is wrong with them.
    """
    served = arguments[1] if len(arguments) > 1 and arguments[0] == "serve" else ""
    following = [value for option, value in pairwise(arguments) if option == "--model"]
    read = arguments[1] if len(arguments) > 1 and arguments[0] == "import" and not Path(arguments[1]).exists() else ""
    names = (name for argument in arguments for name in (_set(argument), _named(argument, home)))
    return any(_is_hub(name) for name in (served, read, *following, *names))


def _is_hub(name: object) -> bool:
    return isinstance(name, str) and bool(HUB_ID.fullmatch(name))


def _set(argument: str) -> str:
    key, _, value = argument.partition("=")
    return value if key in ("model", "model.id", "--model") else ""


def _named(argument: str, home: str | None) -> object:
    if Path(argument).suffix in (".yaml", ".yml"):
        return _of_recipe(Path(argument), home)
    name = re.fullmatch(r"([a-z0-9._-]+(@[\w.-]+)?)(:\d+)?", argument)
    return _of_artifact(name[1], home) if name else None


def _of_recipe(path: Path, home: str | None) -> object:
    try:
        values = read_document(path).data
    except RecipeError:
        return None
    plan = values.get("plan")  # of a condition recipe, which acts on the model of that plan
    return _of_artifact(plan, home) if isinstance(plan, str) else _model_id(values)


def _of_artifact(ref: str, home: str | None) -> object:
    try:
        catalog: Catalog = Home.at(home).catalog
        return _model_id(base_values(catalog.get(ref)))
    except (OSError, StoreError):
        return None


def _model_id(recipe: object) -> object:
    model = recipe.get("model") if isinstance(recipe, dict) else None
    return model.get("id") if isinstance(model, dict) else model
