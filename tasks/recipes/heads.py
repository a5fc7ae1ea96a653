"""Head recipe: which heads do a task. Frozen, closed to unknown keys, hashed, like any recipe; `trimtab rank` reads it.

Questions are split by hashing their prompts: heads are ranked on one half and tested on the other, always.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from trimtab.steering.errors import SteeringError
from trimtab.steering.localisers import LOCALISERS
from trimtab.store.catalog.refs import check_name
from trimtab.store.errors import StoreError
from trimtab.tasks.data.jsonl import canonical, split_of
from trimtab.tasks.data.questions import QuestionRow, read_questions
from trimtab.tasks.data.sections import FileField, Part, Seed
from trimtab.tasks.errors import DataError, RecipeError, did_you_mean
from trimtab.tasks.recipes.checks import Problem, field_problem
from trimtab.tasks.recipes.problems import CROSS, problem_lines
from trimtab.tasks.recipes.sections import ModelSpec
from trimtab.tasks.recipes.yaml import Document, override, read_document

FORMAT = 1  # part of every key: raise it when a ranking is computed otherwise from the same recipe
HALVES = (0.5, 1e-9, 0.5 - 1e-9)  # shares of fit and report; nothing is selected
FEWEST = 4  # questions of one half


class RankSpec(Part):
    """method: a localiser's name. fields: its hyper-parameters. questions: at most this many of the half to rank on."""

    method: str = "attribution_patching"
    fields: Mapping[str, Any] = Field(default_factory=dict)
    questions: int = Field(default=24, ge=FEWEST, le=10_000)


@dataclasses.dataclass(frozen=True)
class Plain:
    """How prompts become text when a plan of heads answers them: as the questions did, without a chat template."""

    chat: bool = False
    system: None = None


class HeadRecipe(Part):
    """name: under which the ranking is published. task: JSONL of questions. others: tasks that the heads should not
    serve. neutral: texts for the off-target cost, null for the packaged ones. seed: of the split."""

    name: str
    model: Annotated[ModelSpec, BeforeValidator(lambda v: {"id": v} if isinstance(v, str) else v)] = ModelSpec()
    task: FileField
    others: tuple[FileField, ...] = ()
    rank: RankSpec = RankSpec()
    neutral: FileField | None = None
    seed: Seed = 0

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            check_name(value)
        except StoreError as error:
            raise ValueError(str(error)) from None
        if len(value) > 40 or "." in value:
            raise ValueError(f"'{value}' cannot be a recipe's name: at most 40 of a-z, 0-9, '-' and '_'")
        return value

    @model_validator(mode="after")
    def _method_is_known(self) -> "HeadRecipe":
        problems = list(_check_method(self.rank))
        if problems:
            text = "; ".join(f"{'.'.join(key)}: {what}" for key, what in problems)
            raise PydanticCustomError(CROSS, "{text}", {"text": text, "problems": problems})
        return self

    @property
    def data(self) -> Plain:
        """What `trimtab steer` asks of a recipe's data."""
        return Plain()

    @property
    def key(self) -> str:
        """sha256 of what decides the ranking. The name does not."""
        model = self.model.model_dump(mode="json")
        model["id"] = self.model.identity
        model["device"] = self.model.device.partition(":")[0]
        parts = {
            "format": FORMAT,
            "model": model,
            "task": self.task.sha256,
            "rank": self.rank.model_dump(mode="json"),
            "seed": self.seed,
        }
        return hashlib.sha256(canonical({"stage": "rank", **parts}).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `make_head_recipe` reads it back."""
        return self.model_dump(mode="json")

    def halves(self, path: str | None = None) -> tuple[list[QuestionRow], list[QuestionRow]]:
        """(to rank on, to test on) of the task, or of another file. Raises DataError when a half is too small, or the
        file is not the one that the recipe was read with."""
        known = {file.path: file.sha256 for file in (self.task, *self.others)}
        name = path or self.task.path
        found = read_questions(Path(name))
        if found.digest != known[name]:
            raise DataError(f"{name}: has changed since the recipe was read; run `trimtab rank` again")
        sides = [[row for row in found.rows if self._side(row) == side] for side in ("fit", "report")]
        if min(map(len, sides)) < FEWEST:
            raise DataError(f"{name}: its halves have {len(sides[0])} and {len(sides[1])} questions; give more rows")
        prompts = [len({row.prompt for row in side}) for side in sides]
        if min(prompts) < 2:
            raise DataError(f"{name}: its halves have questions on {prompts[0]} and {prompts[1]} prompts; an interval "
                            f"needs 2 in each, give more prompts")  # fmt: skip
        return sides[0], sides[1]

    def _side(self, row: QuestionRow) -> str:
        return split_of(canonical(row.prompt), HALVES, self.seed)


def load_head_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> HeadRecipe:
    """A head recipe file with `key=value` overrides; its questions are read too. Raises RecipeError (DataError for a
    data file): one line per mistake, beginning with `file:line:`."""
    file = Path(path)
    document = read_document(file)
    for setting in overrides:
        document = override(document, setting)
    recipe = _validated(document, file.parent)
    for task in (recipe.task, *recipe.others):
        recipe.halves(task.path)
    return recipe


def make_head_recipe(values: object) -> HeadRecipe:
    """From `to_json()`. Raises RecipeError when the values are not a head recipe's."""
    if not isinstance(values, Mapping) or "task" not in values:
        raise RecipeError("this was not made from a head recipe; `trimtab rank RECIPE` makes rankings")
    return _validated(Document(dict(values), "recipe"), Path("."))


def _validated(document: Document, folder: Path) -> HeadRecipe:
    try:
        return HeadRecipe.model_validate_json(document.json(), context={"folder": str(folder)})
    except ValidationError as error:
        raise RecipeError(problem_lines(error, HeadRecipe, document)) from None


def _check_method(rank: RankSpec) -> Iterator[Problem]:
    if rank.method not in LOCALISERS:
        yield ("rank", "method"), f"unknown localiser '{rank.method}'{did_you_mean(rank.method, LOCALISERS)}"
        return
    method = LOCALISERS[rank.method]
    known = {field.name: field for field in dataclasses.fields(method) if field.init}  # type: ignore[arg-type]
    hints = get_type_hints(method)
    problems = [(name, field_problem(name, value, known, hints)) for name, value in rank.fields.items()]
    wrong = [(name, what) for name, what in problems if what]
    for name, what in wrong:
        yield ("rank", "fields", name), what
    if wrong:
        return
    try:
        method(**rank.fields)
    except (SteeringError, ValueError, TypeError) as error:
        yield ("rank", "fields"), f"{rank.method}: {' '.join(str(error).split())}"
