"""Import: a steering file of another tool becomes a published plan, with where it came from and without a price."""

import hashlib
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from trimtab.steering.errors import BadFile, BadPlan, BadSite
from trimtab.steering.export import FORMATS, read_file
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.families import FAMILIES
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.plans.repository import downloaded_repository
from trimtab.tasks.admin.offline import HUB_ID
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.checkpoints import folder_digest
from trimtab.tasks.recipes.kinds import make_imported
from trimtab.tasks.references import Reference
from trimtab.tasks.step import Product, Step


def import_plan(path: Path, model: str, name: str, home: Home, format_name: str | None = None) -> Reference:
    """Publish the plan in `path` as the next version of `name`; the same file for the same model is published once.

    path: of a file or a folder; where there is none, a repository of the Hub. model: as recipes write it. format_name:
    of FORMATS; by default told by suffix and content. Raises BadFile for a file that is none of the format, is for
    another kind of model, or does not fit the model; RecipeError, StoreError.
    """
    if path.exists():
        return _publish(path, str(path), model, name, home, format_name)
    if not HUB_ID.fullmatch(str(path)):
        raise RecipeError(f"{path} does not exist: name a steering file, a folder with one, or a repository of the Hub")
    with downloaded_repository(str(path)) as folder:
        return _publish(folder, f"hf://{path}", model, name, home, "hf")


def _publish(path: Path, shown: str, model: str, name: str, home: Home, format_name: str | None) -> Reference:
    tool, plan = read_file(path, format_name)
    source = {"path": shown, "sha256": _digest(path), "format": tool}
    recipe = make_imported({"kind": "imported", "name": name, "model": model, "source": source})
    loaded, tokenizer = model_of(recipe.model)
    fitting = _fitted(plan, Anatomy.of(loaded), shown, FORMATS[tool]().model_type(path))
    recipe = recipe.model_copy(update={"chat": _has_chat(tokenizer)})
    packed = fitting.pack()
    step = Step(name, "plan", f"{recipe.stage('import')}/{name}", recipe.to_json())
    return step.find_or_publish(home, lambda: Product(packed.arrays, packed.header))


def _fitted(plan: SteeringPlan, anatomy: Anatomy, path: str, model_type: str) -> SteeringPlan:
    """The plan with the model's fingerprint, unless it has one. Raises BadFile when it does not fit the model.

    model_type: what the file says it is for; words that name no family (EasySteer writes `qwen`) say nothing."""
    here = anatomy.fingerprint
    if model_type in FAMILIES and model_type not in (here.model_type, anatomy.model.config.model_type):
        raise BadFile(
            f"{path} says it is for a {model_type}, and the model is a {here.model_type}: a vector of one family means "
            f"nothing in another; name the model it was made on (--model)"
        )
    try:
        plan.check(anatomy)
    except (BadPlan, BadSite) as error:
        raise BadFile(f"{path} does not fit this {here.model_type} model: {error}") from error
    return plan if plan.model is not None else replace(plan, model=here)


def _has_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(tokenizer.chat_template)


def _digest(path: Path) -> str:
    return folder_digest(path) if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
