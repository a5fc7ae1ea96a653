"""StudyRecipe: many behaviours, methods and budgets, each combination judged like any other recipe, in one table."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from trimtab.steering.fitters import FITTERS
from trimtab.tasks.data.sections import FileField, Part
from trimtab.tasks.recipes.base import Recipe, refuse
from trimtab.tasks.recipes.methods import method_problems
from trimtab.tasks.recipes.sections import Nats


class MethodSpec(Part):
    """One method of the study."""

    fitter: str
    """Name of a fitter; `trimtab methods` lists them."""
    fields: Mapping[str, Any] = Field(default_factory=dict)
    """Hyper-parameters of the fitter, by name."""
    settings: tuple[str, ...] = ()
    """`key=value` overrides of the recipes for this method alone, such as `fit.span=last`."""

    @property
    def label(self) -> str:
        """What tells it from the study's other methods: the fitter, and what was set."""
        fields = [f"{key}={json.dumps(value)}" for key, value in self.fields.items()]
        return " ".join([self.fitter, *fields, *self.settings])


def _by_name(value: object) -> object:
    return {"fitter": value} if isinstance(value, str) else value


Method = Annotated[MethodSpec, BeforeValidator(_by_name, json_schema_input_type=str | MethodSpec)]


class StudyRecipe(Recipe):
    """Judge every method on every behaviour at every budget, beside its placebos, and publish the table."""

    FORMAT: ClassVar[int] = 1
    STAGES: ClassVar[tuple[str, ...]] = ("table",)

    kind: Literal["study"] = "study"
    """Always `study` here; may be left out where the file has `behaviours`."""
    behaviours: tuple[FileField, ...] = Field(min_length=1)
    """Recipe files of kind `behaviour`; what they say of fitter and budget is replaced, the rest stays."""
    methods: tuple[Method, ...] = Field(min_length=1)
    """Fitters by name, or sections with `fitter`, `fields` and `settings`."""
    budgets: tuple[Nats, ...] = Field(default=(0.3,), min_length=1)
    """KL budgets, nats per generated token."""
    settings: tuple[str, ...] = ()
    """`key=value` overrides of every recipe, such as `judge.prompts=8`."""

    @model_validator(mode="after")
    def _methods_exist(self) -> "StudyRecipe":
        labels = [method.label for method in self.methods]
        for number, method in enumerate(self.methods):
            problems = method_problems(FITTERS, "fitter", method.fitter, method.fields, "fitter")
            refuse([(("methods", str(number), *key), message) for key, message in problems])
            if method.label in labels[:number]:
                refuse([(("methods", str(number)), f"'{method.label}' stands here twice")])
        return self

    def check_files(self, judged: bool = True) -> None:
        """Raises RecipeError or DataError when a behaviour's recipe cannot be used; each cell is looked at when it is
        read (`tasks/studies/cells.py`)."""
        for file in self.behaviours:
            file.unchanged()

    def parts_of(self, stage: str, parents: Sequence[str]) -> dict[str, Any]:
        """table: the verdicts that it shows, and how its methods are called."""
        return {"verdicts": list(parents), "methods": [method.label for method in self.methods]}
