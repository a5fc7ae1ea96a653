"""produce: the main job. Prompts -> activations -> vectors -> KL budget -> judged -> published -> report."""

from dataclasses import dataclass

from trimtab.flows.job import job
from trimtab.tasks.collecting.capture import capture_task
from trimtab.tasks.data.examples import check_judged
from trimtab.tasks.plans.fit import fit_task
from trimtab.tasks.plans.publish import publish_task
from trimtab.tasks.plans.validate import validate_task
from trimtab.tasks.recipes.recipe import load_recipe
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.reporting.command import recipe_command
from trimtab.tasks.reporting.verdict_report import verdict_report_task


@dataclass(frozen=True)
class Produced:
    """Everything one run made or found: references, and the report's path."""

    capture: CaptureReference
    candidates: tuple[Reference, ...]
    verdict: Reference
    plan: Reference
    report: str

    @property
    def reused(self) -> bool:
        """True when every product was there already: the run did no forward pass."""
        return all(made.reused for made in (self.capture, *self.candidates, self.verdict, self.plan))


@job("produce", "produce-{recipe}")
def produce(recipe: str, home: str = ".trimtab", overrides: list[str] | None = None) -> Produced:
    """Run a recipe file end to end. What the catalog already holds for the same recipe is not computed again."""
    asked = load_recipe(recipe, overrides or [])
    check_judged(asked.data)
    capture = capture_task(asked, home)
    candidates = tuple(fit_task(asked, home, capture, fitter) for fitter in asked.fit.fitters)
    verdict = validate_task(asked, home, capture, candidates)
    plan = publish_task(asked, home, verdict)
    report = verdict_report_task(asked, home, (plan, verdict), recipe_command("run", recipe, home, overrides))
    return Produced(capture, candidates, verdict, plan, report)
