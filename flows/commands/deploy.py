"""deploy, worker: recipes on a schedule. Both need a Prefect server."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands.output import JSON, SET, echo_fields, echo_json
from trimtab.flows.deploy import deploy as deploy_recipe
from trimtab.flows.deploy import work
from trimtab.tasks.doctor import require_server
from trimtab.tasks.home import Home
from trimtab.tasks.recipe import load_recipe
from trimtab.tasks.schedule import check_cron

app = typer.Typer()


@app.command()
def deploy(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; `trimtab init` writes one.")],
    cron: Annotated[str | None, typer.Option(metavar="CRON", help='UTC, for example "0 3 * * *".')] = None,
    name: Annotated[str | None, typer.Option(help="Of the deployment. Default: the recipe's name.")] = None,
    overrides: SET = None,
    as_json: JSON = False,
) -> None:
    """Put a recipe on a schedule, on a Prefect server."""
    asked = load_recipe(recipe, overrides or [])
    if cron is not None:
        check_cron(cron)
    require_server()
    made = deploy_recipe(str(recipe), name or asked.name, Home.at(ctx.obj).url, cron, overrides or [])
    if as_json:
        return echo_json(asdict(made))
    echo_fields(asdict(made))
    typer.echo("next: trimtab worker")


@app.command()
def worker() -> int:
    """Run deployed recipes until stopped."""
    require_server()
    return work()
