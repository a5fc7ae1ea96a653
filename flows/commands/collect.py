"""collect: only a recipe's activations."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.collect import collect as collect_flow
from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, RECIPE, SET, echo, echo_fields, echo_json
from trimtab.tasks.collecting.workers import RUNNERS, runner_of
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import RecipeFile, collectable

app = typer.Typer()


@app.command()
def collect(
    ctx: typer.Context,
    recipe: Annotated[Path, RECIPE],
    overrides: SET = None,
    workers: Annotated[int, typer.Option(min=1, help="How many workers; each loads the model once.")] = 1,
    runner: Annotated[str, typer.Option(help=f"Where workers run: {', '.join(RUNNERS)}.")] = "processes",
    as_json: JSON = False,
) -> None:
    """Only collect a recipe's activations. Interrupt it when you like; the same command goes on."""
    file = RecipeFile.read(recipe, overrides or (), judged=False)  # before anything is started or written
    collectable(file.recipe, file.path)
    runner_of(runner, workers)
    with shown_progress(quiet=as_json):
        capture = collect_flow(file, Home.at(ctx.obj).url, None, workers, runner)
    if as_json:
        return echo_json(asdict(capture))
    if capture.reused:
        echo("nothing to compute: these activations are in the catalog")
    echo_fields(
        {"published": capture.ref, "where": capture.url, "snapshot": capture.snapshot, "tokens run": capture.computed}
    )
