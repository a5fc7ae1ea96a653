"""study: many methods on many behaviours and budgets, in one table."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, RECIPE, SET, echo, echo_fields, echo_json
from trimtab.flows.study import Studied
from trimtab.flows.study import study as study_flow
from trimtab.tasks.collecting.workers import RUNNERS
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.recipes.study import StudyRecipe
from trimtab.tasks.registry.views import details
from trimtab.tasks.reporting.study_page import sentences
from trimtab.tasks.studies.cells import cells_of

app = typer.Typer()


@app.command()
def study(
    ctx: typer.Context,
    recipe: Annotated[Path, RECIPE],
    overrides: SET = None,
    workers: Annotated[int, typer.Option(min=1, help="How many cells are judged at once.")] = 1,
    runner: Annotated[str, typer.Option(help=f"Where workers run: {', '.join(RUNNERS)}.")] = "processes",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every cell, list them, run nothing.")] = False,
    as_json: JSON = False,
) -> None:
    """Judge many methods on many behaviours and budgets, in one table. Verdicts that exist are not computed again."""
    file = RecipeFile.read(recipe, overrides or ())  # before anything is started or written
    cells = cells_of(file.expect(StudyRecipe))
    if dry_run:
        return echo_json([{"behaviour": c.behaviour, "method": c.method, "budget": c.budget} for c in cells])
    home = Home.at(ctx.obj)
    with shown_progress(quiet=as_json):
        result: Studied = study_flow(file, home.url, None, workers, runner)
    if as_json:
        return echo_json(
            {**details(home, result.table.ref)["header"], "ref": result.table.ref, "report": result.report}
        )
    tell_study(home, result)


def tell_study(home: Home, result: Any) -> None:
    """What won where, and what to look at next."""
    shown = details(home, result.table.ref)
    echo_fields({"published": result.table.ref, **shown["metrics"], "report": result.report})
    for sentence in sentences([row for row in shown["header"]["rows"] if not row["problem"]]):
        echo(f"\n{sentence}")
    echo(f"\nnext: open {result.report} | trimtab show {result.table.ref} --json")
