"""study: every behaviour by every method at every budget, judged alike, to one table and its page."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefect import flow

from trimtab.flows.job import job
from trimtab.tasks.collecting.capture import capture_task
from trimtab.tasks.collecting.workers import runner_of
from trimtab.tasks.jobs.processes import without_interrupts
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.recipes.study import StudyRecipe
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.reporting.command import recipe_command
from trimtab.tasks.reporting.study_report import study_report_task
from trimtab.tasks.studies.cells import Cell, CellResult, cell_task, cells_of
from trimtab.tasks.studies.table import table_task


@dataclass(frozen=True)
class Studied:
    """table: the published study. cells: what each cell published. report: path of the page."""

    table: Reference
    cells: tuple[CellResult, ...]
    report: str

    @property
    def reused(self) -> bool:
        """True when every verdict was there already."""
        return all(cell.reused for cell in self.cells)


@job("study", "study-{recipe}")
def study(
    recipe: str | RecipeFile,
    home: str = ".trimtab",
    overrides: list[str] | None = None,
    workers: int = 1,
    runner: str = "processes",
) -> Studied:
    """Run a study. Activations are collected once per behaviour; verdicts that the catalog has are not computed again,
    so a study that was stopped goes on where it was, and a wider one computes only what is new.

    workers, runner: how many cells are judged at once, and where. Raises RecipeError before anything is computed.
    """
    file = RecipeFile.of(recipe, overrides)
    plan = file.expect(StudyRecipe)
    cells = cells_of(plan)
    runner_of(runner, workers)  # a runner that is not installed is said before anything is computed
    captures = {cell.recipe.stage("capture"): cell.recipe for cell in cells}
    rows = {key: capture_task(behaviour, home) for key, behaviour in captures.items()}
    work = [(cell, rows[cell.recipe.stage("capture")]) for cell in cells]
    judged = _judged_here(work, home) if workers == 1 else _judged_in_workers(work, home, workers, runner)
    table = table_task(plan, home, cells, judged)
    again = recipe_command("study", file.path, home, file.overrides)
    return Studied(table, tuple(judged), study_report_task(home, table, again))


def _judged_here(work: Sequence[tuple[Cell, CaptureReference]], home: str) -> list[CellResult]:
    judged = []
    for number, (cell, capture) in enumerate(work):
        report("cells", number, len(work))
        judged.append(cell_task(cell.recipe, home, capture))
    report("cells", len(work), len(work))
    return judged


def _judged_in_workers(
    work: Sequence[tuple[Cell, CaptureReference]], home: str, workers: int, runner: str
) -> list[CellResult]:
    cells = study_cells.with_options(task_runner=runner_of(runner, workers))  # type: ignore[arg-type]
    judged: list[CellResult] = cells(work, home)
    return judged


@flow(name="study-cells", validate_parameters=False, result_serializer="json")
def study_cells(work: Sequence[tuple[Cell, CaptureReference]], home: str) -> list[CellResult]:
    """Every cell once, in whatever workers the task runner has."""
    with without_interrupts():
        futures = [cell_task.submit(cell.recipe, home, capture) for cell, capture in work]
    return [future.result() for future in futures]
