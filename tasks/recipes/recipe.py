"""Recipe: what was asked, frozen, canonical, hashed. `load_recipe(path, ["budget.kl=0.2"])` reads one from YAML.

Digests see values and the content of data files, never paths: a recipe that was moved is the same recipe. A stage's
digest covers just what matters for that stage and those before it, so that changing the KL budget re-uses activations
and vectors.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from trimtab.store.catalog.refs import check_name
from trimtab.store.errors import StoreError
from trimtab.tasks.data.examples import capability_items, check_data, known_questions, neutral_texts, read_lexicon
from trimtab.tasks.data.jsonl import canonical
from trimtab.tasks.data.sections import Data, Part, Seed
from trimtab.tasks.data.shipped_files import packaged_digest
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.recipes.checks import check_sections
from trimtab.tasks.recipes.problems import CROSS, problem_lines
from trimtab.tasks.recipes.sections import Budget, CaptureSpec, FitSpec, JudgeSpec, ModelSpec
from trimtab.tasks.recipes.yaml import Document, override, read_document

FORMAT = 1  # part of every digest: raise it when a stage computes something else from the same recipe
JUDGE = 5  # the same for the validate stage alone: captures and candidates are kept
MAX_NAME = 40  # room for the names derived from it, such as `<name>.whitened_difference`
Stage = Literal["capture", "fit", "validate"]


def _by_id(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class Recipe(Part):
    """name: under which the plan is published. The sections are described where they are defined."""

    name: str
    model: Annotated[ModelSpec, BeforeValidator(_by_id, json_schema_input_type=str | ModelSpec)] = ModelSpec()
    data: Data
    capture: CaptureSpec = CaptureSpec()
    fit: FitSpec = FitSpec()
    budget: Budget = Budget()
    judge: JudgeSpec = JudgeSpec()
    seed: Seed = 0

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            check_name(value)
        except StoreError as error:
            raise ValueError(str(error)) from None
        if len(value) > MAX_NAME or "." in value:
            raise ValueError(f"'{value}' cannot be a recipe's name: at most {MAX_NAME} of a-z, 0-9, '-' and '_'")
        return value

    @model_validator(mode="after")
    def _sections_agree(self) -> "Recipe":
        problems = list(check_sections(self.capture, self.fit))
        if problems:
            text = "; ".join(f"{'.'.join(key)}: {what}" for key, what in problems)
            raise PydanticCustomError(CROSS, "{text}", {"text": text, "problems": problems})
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, every default written out, files as path and sha256. `make_recipe` reads it back."""
        return self.model_dump(mode="json")

    def canonical(self) -> dict[str, Any]:
        """What the digest sees: files by content, a model folder by its bytes, a device by its kind."""
        found = canonical_form(self.to_json(), self.model)
        # recipes that do not use what came later keep their digest
        for section, later in (
            ("data", "columns"),
            ("capture", "pool"),
            ("capture", "region_mb"),
            ("judge", "questions"),
        ):
            if found[section][later] is None:
                del found[section][later]
        return found

    @property
    def digest(self) -> str:
        """sha256 of everything asked, the name included."""
        return _digest({"format": FORMAT, "recipe": self.canonical()})

    def stage(self, stage: Stage) -> str:
        """sha256 of what matters for a stage and those before it. The name matters to none.

        capture: model, data (its split too: which rows are kept may depend on it) and what is read. fit: also the
        fitters, pooling, span and seed. validate: also the budget, the judge and the packaged files it reads.
        """
        whole = self.canonical()
        parts: dict[str, Any] = {
            "format": FORMAT,
            **{key: whole[key] for key in ("model", "data", "capture")},
        }
        if stage != "capture":
            parts |= {"fit": whole["fit"], "seed": whole["seed"]}
        if stage == "validate":
            parts |= {"budget": whole["budget"], "judge": whole["judge"], "packaged": _packaged(self.judge)}
            parts |= {"judged_by": JUDGE}
        return _digest({"stage": stage, **parts})


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe file, with `key=value` overrides, checked together with the data files it names.

    File names are relative to the recipe's folder. Raises RecipeError (DataError for a data file): one line per
    mistake, beginning with `file:line:`.
    """
    file = Path(path)
    document = read_document(file)
    for setting in overrides:
        document = override(document, setting)
    recipe = _validated(document, file.parent)
    check_data(recipe.data, recipe.capture.span)
    _check_judge(recipe.judge)
    return recipe


def _check_judge(judge: JudgeSpec) -> None:
    """Raises DataError when a file that the judge reads is wrong; the packaged ones are right."""
    if judge.neutral is not None:
        neutral_texts(judge.neutral)
    if judge.capability is not None:
        capability_items(judge.capability)
    known_questions(judge.questions)
    if judge.behaviour is not None and judge.behaviour.lexicon is not None:
        read_lexicon(judge.behaviour.lexicon)


def make_recipe(values: Mapping[str, Any], folder: str | os.PathLike[str] = ".") -> Recipe:
    """A recipe from values, such as `recipe.to_json()`. The data files' rows are not looked at. Raises RecipeError."""
    if not isinstance(values, Mapping):
        raise RecipeError("recipe: this was not made from a recipe")
    return _validated(Document(dict(values), "recipe"), Path(folder))


def _validated(document: Document, folder: Path) -> Recipe:
    """By way of JSON: strict, yet lists are tuples and a date is just text."""
    try:
        return Recipe.model_validate_json(document.json(), context={"folder": str(folder)})
    except ValidationError as error:
        raise RecipeError(problem_lines(error, Recipe, document)) from None


def canonical_form(values: Mapping[str, Any], model: ModelSpec) -> dict[str, Any]:
    """Any recipe's JSON as a digest sees it: files by content, a model folder by its bytes, a device by its kind."""
    identity = {"id": model.identity, "device": _kind(model.device)}
    found = _without_paths(dict(values))
    return {**found, "model": {**found["model"], **identity}}


def _digest(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"path", "sha256"}:
            return value["sha256"]
        return {key: _without_paths(inner) for key, inner in value.items()}
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _packaged(judge: JudgeSpec) -> dict[str, str]:
    asked = {"neutral.jsonl": judge.neutral is None, "capability.jsonl": judge.capability is None}
    asked["function_words.json"] = judge.behaviour is not None and judge.behaviour.metric == "language"
    return {name: packaged_digest(name) for name, wanted in asked.items() if wanted}


def recipe_schema() -> dict[str, Any]:
    """JSON schema of what a recipe file may hold."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
