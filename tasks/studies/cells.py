"""Cells: one behaviour, one method, one budget. Each is a behaviour recipe of its own, judged as such; what cells share
(activations, vectors that do not depend on the budget) is found by its stage key and computed once."""

import json
from dataclasses import dataclass

from trimtab.steering.errors import SteeringError
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.plans.fit import fit_recipe
from trimtab.tasks.plans.validate import validate_recipe
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.recipes.study import MethodSpec, StudyRecipe
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.step import as_task


@dataclass(frozen=True)
class Cell:
    """behaviour: name of its recipe. method: its label. budget: nats per token. recipe: what is run."""

    behaviour: str
    method: str
    budget: float
    recipe: BehaviourRecipe


@dataclass(frozen=True)
class CellResult:
    """candidates, verdict: what a cell published; both None, and why, when the method could not be fitted or judged."""

    candidates: Reference | None = None
    verdict: Reference | None = None
    problem: str = ""

    @property
    def reused(self) -> bool:
        """True when the verdict was there already. What failed is tried again by the next run."""
        return self.verdict is not None and self.verdict.reused


def cells_of(study: StudyRecipe) -> list[Cell]:
    """Every cell, behaviours first. Raises RecipeError naming the recipe that a method or an override does not fit."""
    return [
        _cell(study, path.path, method, budget)
        for path in study.behaviours
        for method in study.methods
        for budget in study.budgets
    ]


def judge_cell(recipe: BehaviourRecipe, home: Home, capture: CaptureReference) -> CellResult:
    """Fit and judge one cell. A method that finds nothing to fit is a result, not an error: the study goes on."""
    try:
        candidates = fit_recipe(recipe, home, capture, recipe.fit.fitter)
        return CellResult(candidates, validate_recipe(recipe, home, capture, [candidates]))
    except SteeringError as error:
        return CellResult(problem=" ".join(str(error).split()))


cell_task = as_task("judge-cell", judge_cell)


def _cell(study: StudyRecipe, path: str, method: MethodSpec, budget: float) -> Cell:
    fitted = (f"fit.fitter={method.fitter}", f"fit.fields={json.dumps(dict(method.fields))}", "fit.compare=[]")
    overrides = (*study.settings, *method.settings, *fitted, f"budget.kl={budget}")
    recipe = RecipeFile.read(path, overrides).recipe
    if not isinstance(recipe, BehaviourRecipe):
        raise RecipeError(f"{path}: a study judges recipes of kind 'behaviour', this is of kind '{recipe.kind}'")
    return Cell(recipe.name, method.label, budget, recipe)
