"""collect: only the activations. Interrupt it when you like; the same command goes on where it stopped."""

from collections.abc import Sequence

from prefect import flow

from trimtab.flows.job import job
from trimtab.tasks.collecting.capture import capture_task
from trimtab.tasks.collecting.workers import (
    CapturePlan,
    finish_task,
    outcome,
    plan_task,
    regions_task,
    runner_of,
    shares_of,
)
from trimtab.tasks.jobs.processes import without_interrupts
from trimtab.tasks.recipes.kinds import Collectable, RecipeFile, collectable
from trimtab.tasks.references import CaptureReference


@job("collect", "collect-{recipe}")
def collect(
    recipe: str | RecipeFile,
    home: str = ".trimtab",
    overrides: list[str] | None = None,
    workers: int = 1,
    runner: str = "processes",
) -> CaptureReference:
    """Capture what a recipe file asks for, in this process or in several workers; the rows are the same.

    Raises RecipeError for a kind that collects nothing.
    """
    file = RecipeFile.of(recipe, overrides, judged=False)
    request = collectable(file.recipe, file.path)
    if workers == 1:
        return capture_task(request, home)
    runner_of(runner, workers)  # a runner that is not installed is said before anything is laid out
    plan = plan_task(request, home)
    return plan.ready or finish_task(request, home, plan, collect_shares(request, home, plan, workers, runner))


def collect_shares(recipe: Collectable, home: str, plan: CapturePlan, workers: int, runner: str) -> int:
    """Rounds of shares until no region is missing; workers that died leave theirs to the next round. Returns how many
    tokens ran through the model."""
    computed, shares = 0, shares_of(plan, workers)
    while shares:
        round_of = collect_round.with_options(task_runner=runner_of(runner, workers))  # type: ignore[arg-type]
        tokens, lost = round_of(recipe, home, plan, shares)
        left = shares_of(plan, workers)
        if sum(map(len, left)) >= sum(map(len, shares)) and lost is not None:
            raise lost  # nothing came of it: another round would not help
        computed, shares = computed + tokens, left
    return computed


@flow(name="collect-round", validate_parameters=False, result_serializer="json")
def collect_round(
    recipe: Collectable, home: str, plan: CapturePlan, shares: Sequence[Sequence[int]]
) -> tuple[int, Exception | None]:
    """Every share once, in whatever workers the task runner has."""
    with without_interrupts():
        futures = [regions_task.submit(recipe, home, plan, share) for share in shares]
    return outcome(futures)
