"""Files: a published plan as a file of another tool, on the Hugging Face Hub, or folded into a checkpoint that any
loader reads."""

from dataclasses import dataclass, replace
from pathlib import Path

from trimtab.steering.export import FORMATS, About
from trimtab.steering.export.hf import Hf
from trimtab.steering.judge.verdict import Verdict
from trimtab.steering.model.embedded import EMBEDDED, EMBEDDED_HUB_ID
from trimtab.steering.plans.fold import fold
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.whole import written_whole
from trimtab.store import Artifact
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.steer import plan_of, recipe_of_plan
from trimtab.tasks.recipes.base import ModelRecipe
from trimtab.tasks.reporting.card import card_of
from trimtab.tasks.reporting.drawing.verdict import read_verdict

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

    @property
    def changes(self) -> list[str]:
        """How it differs from the plan that was measured; nothing when it is that plan."""
        changes = [f"at {self.strength:g} times the published strength"] if self.strength != 1 else []
        return changes + (["on every token"] if self.every_token else [])


@dataclass(frozen=True)
class Destination:
    """Where an exported plan goes. tool: a name of FORMATS, with `-` or `_`. path: a file or a folder. licence: an SPDX
    name, for the formats that say one."""

    tool: str
    path: Path
    licence: str = ""


def export_plan(ref: str, home: Home, to: Destination, leaving: Leaving = Leaving()) -> str:
    """Write the plan of `ref` as a file (or folder) of a format; returns the version's name.

    Raises CannotExport when the format cannot say what the plan does, UnknownName, StoreError, RecipeError when it
    would overwrite a file.
    """
    format_ = FORMATS[to.tool.replace("-", "_")]()
    artifact = home.catalog.get(ref)
    plan, recipe = plan_of(artifact, None)
    if to.path.is_file():
        raise RecipeError(f"{to.path} exists; nothing is overwritten: name another file, or remove it")
    about = _about(artifact, recipe, to.licence)
    if isinstance(format_, Hf):
        about = _carded(about, artifact, home, leaving, None)
    format_.write(leaving.of(plan), to.path, about)
    return artifact.ref


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face Hub. repo_id: `owner/name`. private: for a new one. licence: an SPDX name."""

    repo_id: str
    private: bool = False
    licence: str = ""


def push_plan(ref: str, home: Home, to: Repository, leaving: Leaving = Leaving()) -> tuple[str, str]:
    """Upload the plan of `ref` with its model card; returns the version's name and the commit's address. Raises
    CannotExport with what the Hub said, StoreError."""
    artifact = home.catalog.get(ref)
    plan, recipe = plan_of(artifact, None)
    about = _carded(_about(artifact, recipe, to.licence), artifact, home, leaving, to.repo_id)
    return artifact.ref, leaving.of(plan).push_to_hub(to.repo_id, about, private=to.private or None)


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


def _about(artifact: Artifact, recipe: ModelRecipe, licence: str) -> About:
    model_id = EMBEDDED_HUB_ID if recipe.model.id == EMBEDDED else recipe.model.id
    return About(artifact.name, model_id, _sentence(artifact), licence)


def _carded(about: About, artifact: Artifact, home: Home, leaving: Leaving, repo_id: str | None) -> About:
    """With a model card written from the verdict, whose sentence the card says clause by clause."""
    plan = leaving.of(plan_of(artifact, None)[0])
    card = card_of(artifact, plan, _verdict(artifact, home), leaving.changes, repo_id)
    what = "A steering plan of trimtab: it changes activations while the model runs, and no weights."
    return replace(about, description=f"{what} Base model: `{about.model_id}`.", card=card)


def _verdict(artifact: Artifact, home: Home) -> Verdict | None:
    """The verdict that the version was published from; None when it has none."""
    parents = [home.catalog.get(parent.ref) for parent in artifact.parents]
    return next((read_verdict(parent.header["verdict"]) for parent in parents if parent.kind == "verdict"), None)
