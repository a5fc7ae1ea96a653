"""Evaluate: a task of Inspect, unsteered and steered by a published plan, published as `<name>.inspect`."""

from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from trimtab.steering.judge.harness import HarnessResult, HarnessScore
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.inspect.options import Evaluation
from trimtab.tasks.plans.steer import plan_of
from trimtab.tasks.references import Reference
from trimtab.tasks.step import Product, Step, as_task

KIND = "harness"


def evaluate_plan(ref: str, home: Home, evaluation: Evaluation) -> Reference:
    """Run the task without and with the plan at its published strength, and publish both models' scores.

    Asking again runs the task again: what it does stands in its code and in data that may lie anywhere, so no key could
    say that nothing changed. Raises RecipeError when Inspect is missing, cannot run the task, or gives no numbers.
    """
    harness = harness_module()
    artifact = home.catalog.get(ref)
    _, recipe = plan_of(artifact, None)
    result: HarnessResult = harness.run(recipe.model, artifact.ref, home, evaluation)
    product = Product({}, {"kind": KIND, "harness": asdict(result)}, metrics_of(result))
    return Step(f"{artifact.name}.inspect", KIND, None, asdict(evaluation), [artifact.ref]).publish(home, product)


evaluate_task = as_task("evaluate", evaluate_plan)


def harness_module() -> Any:
    """The module that runs Inspect, which is an extra. Raises RecipeError without it."""
    missing = [name for name in ("inspect_ai", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise RecipeError(f"{', '.join(missing)} is not installed; `pip install 'trimtab[inspect]'`")
    return import_module("trimtab.tasks.inspect.harness")


def metrics_of(result: HarnessResult) -> dict[str, Any]:
    """The numbers people compare versions by."""
    changes = {score.name: asdict(score.difference) for score in result.scores}
    return {"task": result.task, "samples": result.samples, "change": changes, "sentence": sentence(result.scores[0])}


def sentence(score: HarnessScore) -> str:
    """What became of one score, in words."""
    change = score.difference
    told = "no change can be told" if change.low <= 0 <= change.high else "it rises" if change.mean > 0 else "it falls"
    return f"{score.name}: {told}, from {score.base.mean:.3g} to {score.steered.mean:.3g} over {change.n} answers"
