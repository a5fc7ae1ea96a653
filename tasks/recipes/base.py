"""Recipe: what one run is to do, as a frozen, hashed value. Every kind of recipe (`kinds.py`) derives from it.

Digests see values and the content of data files, never paths: a recipe that was moved is the same recipe. A stage's key
covers what that stage and those before it depend on, so that another KL budget re-uses activations and vectors.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, field_validator
from pydantic_core import PydanticCustomError

from trimtab.steering.model.tokens import PromptFormat
from trimtab.store.catalog.refs import check_name
from trimtab.store.digests import json_digest
from trimtab.store.errors import StoreError
from trimtab.tasks.data.sections import Part
from trimtab.tasks.recipes.problems import CROSS, Problem
from trimtab.tasks.recipes.sections import ModelSpec

MAX_NAME = 40  # room for the names derived from it, such as `<name>.whitened_difference`


class Recipe(Part, ABC):
    """Base of all kinds: a kind, a name, stage keys, and the JSON form that published versions carry."""

    FORMAT: ClassVar[int]  # part of every key: raise it when a stage computes something else from the same recipe
    STAGES: ClassVar[tuple[str, ...]]  # in the order in which they run
    ADDED: ClassVar[tuple[tuple[str, str], ...]] = ()  # (section, key) of later versions, not digested while unused
    OPTIONAL: ClassVar[
        tuple[str, ...]
    ] = ()  # sections of later versions: not written down while absent, never digested

    kind: str
    """What is made: `behaviour`, `features`, `condition`, `heads` or `study`. Inferred when left out."""
    name: str
    """Name under which the result is published: at most 40 of a-z, 0-9, `-` and `_`."""

    @field_validator("name")
    @classmethod
    def _publishable(cls, value: str) -> str:
        try:
            check_name(value)
        except StoreError as error:
            raise ValueError(str(error)) from None
        if len(value) > MAX_NAME or "." in value:
            raise ValueError(f"'{value}' cannot be a recipe's name: at most {MAX_NAME} of a-z, 0-9, '-' and '_'")
        return value

    @abstractmethod
    def check_files(self, judged: bool = True) -> None:
        """Read the data files once. Raises DataError when they cannot be used; judged: not for a judgement either."""

    @abstractmethod
    def parts_of(self, stage: str, parents: Sequence[str]) -> dict[str, Any]:
        """What a stage's key is the digest of, beside format and stage. parents: digests of the versions it reads."""

    def stage(self, stage: str, parents: Sequence[str] = ()) -> str:
        """Key of a stage: sha256 of all that it depends on. The recipe's name matters to none."""
        return digest_of({"format": self.FORMAT, "stage": stage, **self.parts_of(stage, parents)})

    @property
    def digest(self) -> str:
        """sha256 of the whole recipe, the name included."""
        return digest_of({"format": self.FORMAT, "recipe": self.canonical()})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, every default written out, files as path and sha256. `make_recipe` reads it back."""
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if value is not None or name not in self.OPTIONAL}

    def canonical(self) -> dict[str, Any]:
        """What digests see: data files by content; neither the kind nor unused keys that later versions brought, nor
        the sections that change no result."""
        values = _without_paths(self.to_json())
        for name in ("kind", *self.OPTIONAL):
            values.pop(name, None)
        for section, key in self.ADDED:
            if not values[section][key]:
                del values[section][key]
        return values


def _by_id(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class ModelRecipe(Recipe, ABC):
    """Base of the kinds that name their model; a conditional plan acts on that of the plan it conditions."""

    model: Annotated[ModelSpec, BeforeValidator(_by_id, json_schema_input_type=str | ModelSpec)] = ModelSpec()
    """The model: its id, or a section with `id`, `revision`, `dtype` and `device`."""

    @property
    @abstractmethod
    def form(self) -> PromptFormat:
        """How prompts are put to the model when a plan of this recipe answers them."""

    def canonical(self) -> dict[str, Any]:
        """As for any recipe; a model folder by its bytes, a device by its type, `cuda` or `cpu`."""
        values = super().canonical()
        device = self.model.device.partition(":")[0]
        return {**values, "model": {**values["model"], "id": self.model.identity, "device": device}}


def digest_of(value: Mapping[str, Any]) -> str:
    """sha256 of a value's canonical JSON."""
    return json_digest(value)


def refuse(problems: Sequence[Problem]) -> None:
    """Raises the validation error that carries several (key, message), when there are any."""
    if problems:
        text = "; ".join(f"{'.'.join(map(str, key))}: {message}" for key, message in problems)
        raise PydanticCustomError(CROSS, "{text}", {"text": text, "problems": list(problems)})


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"path", "sha256"}:
            return value["sha256"]
        return {key: _without_paths(inner) for key, inner in value.items()}
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value
