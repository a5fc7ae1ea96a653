"""validate: candidates to a verdict, without publishing the plan under its name."""

from trimtab.flows.job import job
from trimtab.tasks.collecting.capture import capture_task
from trimtab.tasks.plans.fit import fit_task
from trimtab.tasks.plans.validate import validate_task
from trimtab.tasks.recipes.recipe import load_recipe
from trimtab.tasks.references import Reference


@job("validate", "validate-{recipe}")
def validate(recipe: str, home: str = ".trimtab", overrides: list[str] | None = None) -> Reference:
    """Judge a recipe's vectors beside their placebos at the recipe's KL budget."""
    asked = load_recipe(recipe, overrides or [])
    capture = capture_task(asked, home)
    candidates = tuple(fit_task(asked, home, capture, fitter) for fitter in asked.fit.fitters)
    return validate_task(asked, home, capture, candidates)
