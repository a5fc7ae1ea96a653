"""The kinds of recipes, and the one way to read any of them: YAML, `key=value` overrides, one line per mistake."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from trimtab.tasks.errors import RecipeError, did_you_mean
from trimtab.tasks.recipes.base import Recipe
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.condition import ConditionRecipe
from trimtab.tasks.recipes.features import FeaturesRecipe
from trimtab.tasks.recipes.heads import HeadRecipe
from trimtab.tasks.recipes.imported import ImportedRecipe
from trimtab.tasks.recipes.problems import problem_lines
from trimtab.tasks.recipes.study import StudyRecipe
from trimtab.tasks.recipes.yaml import Document, override, read_document

AnyRecipe = Annotated[
    BehaviourRecipe | FeaturesRecipe | ConditionRecipe | HeadRecipe | StudyRecipe, Field(discriminator="kind")
]  # fmt: skip
KINDS: dict[str, type[Recipe]] = {
    "behaviour": BehaviourRecipe,
    "features": FeaturesRecipe,
    "condition": ConditionRecipe,
    "heads": HeadRecipe,
    "study": StudyRecipe,
}
SIGNS = {
    "condition": "condition",
    "features": "features",
    "task": "heads",
    "behaviours": "study",
}  # keys that tell the kind of a file
IMPORTED = "imported"  # the kind of a version's record that is no recipe file's
Collectable = BehaviourRecipe | FeaturesRecipe  # the kinds that collect activations
DRAFT = "https://json-schema.org/draft/2020-12/schema"

_reader: TypeAdapter[Recipe] = TypeAdapter(AnyRecipe)
R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class RecipeFile:
    """A recipe and the file that it was read from, with its `key=value` overrides: read once, then handed on."""

    path: str
    recipe: Recipe
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The path as it was written, which names flow runs."""
        return self.path

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Sequence[str] = (), judged: bool = True) -> "RecipeFile":
        """Read a recipe and look at its data files. Raises RecipeError (DataError for a data file): one line per
        mistake, beginning with `file:line:`. judged: texts that can be collected but not judged are mistakes too."""
        recipe = read_recipe(path, overrides)
        recipe.check_files(judged)
        return cls(os.fspath(path), recipe, tuple(overrides))

    @classmethod
    def of(cls, recipe: "str | RecipeFile", overrides: Sequence[str] | None, judged: bool = True) -> "RecipeFile":
        """The file at a path, read now; one that was read already as it is."""
        return recipe if isinstance(recipe, RecipeFile) else cls.read(recipe, overrides or (), judged)

    def expect(self, kind: type[R]) -> R:
        """The recipe, of this kind. Raises RecipeError when it is of another."""
        return of_kind(kind, self.recipe, self.path)


def kind_of(values: Mapping[str, Any]) -> str:
    """The kind that a recipe's values name, else the one that their keys tell; nothing is checked."""
    return str(values.get("kind") or next((SIGNS[key] for key in SIGNS if key in values), "behaviour"))


def of_kind(kind: type[R], recipe: Recipe, name: str = "recipe") -> R:
    """The recipe itself. Raises RecipeError when it is of another kind. name: of its file, for the message."""
    if not isinstance(recipe, kind):
        raise RecipeError(
            f"{name}: a recipe of kind '{recipe.kind}' cannot do this: it needs a {kind.__name__}; `trimtab run` runs "
            f"every kind"
        )
    return recipe


def collectable(recipe: Recipe, name: str = "recipe") -> Collectable:
    """The recipe itself. Raises RecipeError when its kind collects no activations. name: of its file."""
    if isinstance(recipe, BehaviourRecipe | FeaturesRecipe):
        return recipe
    raise RecipeError(
        f"{name}: there is nothing to collect: a recipe of kind '{recipe.kind}' stores no activations; `trimtab run` "
        f"runs it"
    )


def read_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe file of any kind; its data files are only digested. File names in it are relative to its folder.

    Raises RecipeError: one line per mistake, beginning with `file:line:`.
    """
    document = read_document(Path(path))
    for setting in overrides:
        document = override(document, setting)
    return validated(document, Path(path).parent)


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The same, its data files looked at too: what `trimtab collect` needs. Raises RecipeError, DataError."""
    return RecipeFile.read(path, overrides, judged=False).recipe


def make_recipe(values: object, folder: str | os.PathLike[str] = ".") -> Recipe:
    """A recipe from values, such as `recipe.to_json()`. The data files' rows are not looked at. Raises RecipeError."""
    if not isinstance(values, Mapping):
        raise RecipeError("recipe: this was not made from a recipe")
    if values.get("kind") == IMPORTED:
        return make_imported(values, folder)
    return validated(Document(dict(values), "recipe"), Path(folder))


def make_imported(values: Mapping[str, Any], folder: str | os.PathLike[str] = ".") -> ImportedRecipe:
    """The record of an imported plan, which no recipe file can be. Raises RecipeError."""
    document = Document(dict(values), IMPORTED)
    try:
        return ImportedRecipe.model_validate_json(document.json(), context={"folder": str(folder)})
    except ValidationError as error:
        raise RecipeError(problem_lines(error, ImportedRecipe, document)) from None


def validated(document: Document, folder: Path) -> Recipe:
    """By way of JSON: strict, yet lists are tuples and a date is just text. Raises RecipeError."""
    kind = kind_of(document.data)
    if kind not in KINDS:
        raise RecipeError(f"{document.where(('kind',))}: kind: unknown kind '{kind}'{did_you_mean(kind, KINDS)}")
    whole = replace(document, data={**document.data, "kind": kind})
    try:
        return _reader.validate_json(whole.json(), context={"folder": str(folder)})
    except ValidationError as error:
        raise RecipeError(problem_lines(error, KINDS[kind], document)) from None


def recipe_schema(kind: str | None = None) -> dict[str, Any]:
    """JSON schema of what a recipe file may hold: of one kind, or of all. Raises RecipeError for an unknown kind."""
    if kind is not None and kind not in KINDS:
        raise RecipeError(f"unknown kind '{kind}'{did_you_mean(kind, KINDS)}")
    schema = KINDS[kind].model_json_schema() if kind else _reader.json_schema()
    schema.pop("discriminator", None)  # a file may leave its kind out
    return {"$schema": DRAFT, **schema}
