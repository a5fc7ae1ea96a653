"""fit: activations (collected when missing) to candidate vectors at every block."""

from trimtab.flows.job import job
from trimtab.tasks.collecting.capture import capture_task
from trimtab.tasks.plans.fit import fit_task
from trimtab.tasks.recipes.recipe import load_recipe
from trimtab.tasks.references import Reference


@job("fit", "fit-{recipe}")
def fit(recipe: str, home: str = ".trimtab", overrides: list[str] | None = None) -> tuple[Reference, ...]:
    """Fit every method a recipe file names."""
    asked = load_recipe(recipe, overrides or [])
    capture = capture_task(asked, home)
    return tuple(fit_task(asked, home, capture, fitter) for fitter in asked.fit.fitters)
