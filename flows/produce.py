"""produce: the main job. Prompts -> activations -> vectors -> KL budget -> judged -> published -> report -> gate."""

from dataclasses import dataclass

from trimtab.flows.job import job, negative
from trimtab.tasks.collecting.capture import capture_task
from trimtab.tasks.plans.fit import fit_task
from trimtab.tasks.plans.publish import publish_task
from trimtab.tasks.plans.recheck import Drift, Rechecked, recheck_task, roll_back_task
from trimtab.tasks.plans.validate import validate_task
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.registry.gates import Decision, GateRefusal, decide_task
from trimtab.tasks.reporting.command import recipe_command
from trimtab.tasks.reporting.verdict_report import verdict_report_task


@dataclass(frozen=True)
class Produced:
    """References to everything one run computed or found in the catalog, the report's path, and whether the recipe's
    alias was moved (None where it names none)."""

    capture: CaptureReference
    candidates: tuple[Reference, ...]
    verdict: Reference
    plan: Reference
    report: str
    gate: Decision | None = None

    @property
    def reused(self) -> bool:
        """True when every product was there already: the run did no forward pass."""
        return all(product.reused for product in (self.capture, *self.candidates, self.verdict, self.plan))


@job("produce", "produce-{recipe}")
def produce(recipe: str | RecipeFile, home: str = ".trimtab", overrides: list[str] | None = None) -> Produced:
    """Run a behaviour recipe end to end. What the catalog already holds for the same recipe is not computed again.

    recipe: a path, or the file as it was read, with its overrides, so that it is not read again.
    A version that fails what the recipe requires is published, the alias stays, and the run ends in the failed state
    "Refused"; called from Python, that is a GateRefusal, whose `result` is the Produced.
    """
    file = RecipeFile.of(recipe, overrides)
    behaviour = file.expect(BehaviourRecipe)
    capture = capture_task(behaviour, home)
    candidates = tuple(fit_task(behaviour, home, capture, fitter) for fitter in behaviour.fit.fitters)
    verdict = validate_task(behaviour, home, capture, candidates)
    plan = publish_task(behaviour, home, verdict)
    again = recipe_command("run", file.path, home, file.overrides)
    report = verdict_report_task(behaviour, home, (plan, verdict), again)
    produced = Produced(capture, candidates, verdict, plan, report, decide_task(behaviour, home, plan))
    if produced.gate is not None and produced.gate.refused:
        return negative("Refused", GateRefusal(produced.gate.text), produced)
    return produced


@job("recheck", "recheck-{ref}")
def recheck(ref: str, home: str = ".trimtab", roll_back: bool = False) -> Rechecked:
    """Measure a published plan again with the model, tokenizer and libraries of today.

    A plan that is worse than its verdict beyond noise, or no longer shows what its recipe requires, ends the run in
    the failed state "Drifted"; called from Python, that is a Drift, whose `result` is the Rechecked. roll_back: let the
    alias in `ref` then name again what it named before.
    """
    rechecked = recheck_task(ref, home)
    if not rechecked.drifted:
        return rechecked
    text = f"{rechecked.text}; {roll_back_task(ref, home, rechecked)}" if roll_back else rechecked.text
    return negative("Drifted", Drift(text), rechecked)


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
