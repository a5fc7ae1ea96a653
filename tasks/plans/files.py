"""Files: a published plan as a file of another tool, or folded into a checkpoint that any loader reads."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.steering.export import FORMATS, About
from trimtab.steering.export.hf import card
from trimtab.steering.plans.fold import fold
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.whole import written_whole
from trimtab.store import Artifact
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.steer import plan_of, recipe_of_plan

EVERY_TOKEN = "all"


@dataclass(frozen=True)
class Leaving:
    """How a plan leaves the catalog. strength: times the published one. every_token: steer all tokens, whatever span
    the plan was priced on: most tools know no other, and its price then no longer holds."""

    strength: float = 1.0
    every_token: bool = False

    def of(self, plan: SteeringPlan) -> SteeringPlan:
        """The plan as it leaves."""
        scaled = plan.scaled(self.strength)
        return scaled.spanning(EVERY_TOKEN) if self.every_token else scaled


def export_plan(ref: str, home: Home, tool: str, path: Path, leaving: Leaving = Leaving()) -> str:
    """Write the plan of `ref` as a file (or folder) of a format; returns the version's name.

    tool: a name of FORMATS, with `-` or `_`. Raises CannotExport when the format cannot say what the plan does,
    UnknownName, StoreError, RecipeError when it would overwrite a file.
    """
    format_ = FORMATS[tool.replace("-", "_")]()
    artifact = home.catalog.get(ref)
    plan, recipe = plan_of(artifact, None)
    if path.is_file():
        raise RecipeError(f"{path} exists; nothing is overwritten: name another file, or remove it")
    about = About(artifact.name, recipe.model.id, _sentence(artifact))
    format_.write(leaving.of(plan), path, replace(about, card=card(about, _measured(artifact, leaving))))
    return artifact.ref


def fold_plan(ref: str, home: Home, folder: Path, leaving: Leaving = Leaving()) -> str:
    """Write a checkpoint of the plan's model with the plan in its weights; returns the version's name.

    Saved and loaded by anyone it answers as the model does under the plan. Raises CannotFold when no checkpoint of the
    family can hold it, RecipeError when the folder is not empty.
    """
    artifact = home.catalog.get(ref)
    plan, _ = plan_of(artifact, None)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"{folder} exists and is not an empty folder; nothing is overwritten: name a new one")
    model, tokenizer = model_of(recipe_of_plan(artifact).model)
    folded = fold(leaving.of(plan), model)
    with written_whole(folder) as part:
        folded.save_pretrained(part)
        tokenizer.save_pretrained(part)
    return artifact.ref


def _sentence(artifact: Artifact) -> str:
    return str(artifact.metrics.get("sentence", "")) if isinstance(artifact.metrics, dict) else ""


def _measured(artifact: Artifact, leaving: Leaving) -> str:
    """What a model card says below the sentence: the numbers that the version was published with, and its digest."""
    metrics = artifact.metrics if isinstance(artifact.metrics, dict) else {}
    rows = [f"| {name} | {_number(value)} |" for name, value in metrics.items() if name != "sentence"]
    table = ["| measured | |", "|---|---|", *rows] if rows else ["Nothing was measured of this plan."]
    origin = f"Exported from `{artifact.ref}`, digest `{artifact.digest}`."
    return "\n".join([*table, "", origin, *_changes(leaving)])


def _changes(leaving: Leaving) -> list[str]:
    """Why the numbers above do not hold of what was exported, if they do not."""
    changes = [f"at {leaving.strength:g} times the published strength"] if leaving.strength != 1 else []
    changes += ["on every token"] if leaving.every_token else []
    return [f"The numbers do not hold of this file: it steers {' and '.join(changes)}."] if changes else []


def _number(value: Any) -> str:
    if isinstance(value, dict) and {"mean", "low", "high"} <= value.keys():
        return f"{value['mean']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
