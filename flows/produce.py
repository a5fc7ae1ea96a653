"""produce: the main job. Prompts -> activations -> vectors -> KL budget -> judged -> published -> report."""

from dataclasses import dataclass

from trimtab.flows.job import job
from trimtab.tasks.collecting.capture import capture_task
from trimtab.tasks.plans.fit import fit_task
from trimtab.tasks.plans.publish import publish_task
from trimtab.tasks.plans.validate import validate_task
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.reporting.command import recipe_command
from trimtab.tasks.reporting.verdict_report import verdict_report_task


@dataclass(frozen=True)
class Produced:
    """References to everything one run computed or found in the catalog, and the report's path."""

    capture: CaptureReference
    candidates: tuple[Reference, ...]
    verdict: Reference
    plan: Reference
    report: str

    @property
    def reused(self) -> bool:
        """True when every product was there already: the run did no forward pass."""
        return all(product.reused for product in (self.capture, *self.candidates, self.verdict, self.plan))


@job("produce", "produce-{recipe}")
def produce(recipe: str | RecipeFile, home: str = ".trimtab", overrides: list[str] | None = None) -> Produced:
    """Run a behaviour recipe end to end. What the catalog already holds for the same recipe is not computed again.

    recipe: a path, or the file as it was read, with its overrides, so that it is not read again.
    """
    file = RecipeFile.of(recipe, overrides)
    behaviour = file.expect(BehaviourRecipe)
    capture = capture_task(behaviour, home)
    candidates = tuple(fit_task(behaviour, home, capture, fitter) for fitter in behaviour.fit.fitters)
    verdict = validate_task(behaviour, home, capture, candidates)
    plan = publish_task(behaviour, home, verdict)
    again = recipe_command("run", file.path, home, file.overrides)
    report = verdict_report_task(behaviour, home, (plan, verdict), again)
    return Produced(capture, candidates, verdict, plan, report)


@job("fit", "fit-{recipe}")
def fit(recipe: str | RecipeFile, home: str = ".trimtab", overrides: list[str] | None = None) -> tuple[Reference, ...]:
    """Activations (collected when missing) to candidate vectors at every block, by every fitter of the recipe."""
    behaviour = RecipeFile.of(recipe, overrides, judged=False).expect(BehaviourRecipe)
    capture = capture_task(behaviour, home)
    return tuple(fit_task(behaviour, home, capture, fitter) for fitter in behaviour.fit.fitters)


@job("validate", "validate-{recipe}")
def validate(recipe: str | RecipeFile, home: str = ".trimtab", overrides: list[str] | None = None) -> Reference:
    """Candidates to a verdict beside their placebos, without publishing the plan under its name."""
    behaviour = RecipeFile.of(recipe, overrides).expect(BehaviourRecipe)
    capture = capture_task(behaviour, home)
    candidates = tuple(fit_task(behaviour, home, capture, fitter) for fitter in behaviour.fit.fitters)
    return validate_task(behaviour, home, capture, candidates)
