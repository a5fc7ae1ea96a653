"""deploy, server, worker: recipes on a schedule, which needs a Prefect server."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, SET, echo, echo_fields, echo_json
from trimtab.flows.commands.recheck import check_alias_of
from trimtab.flows.deploy import check_cron, deploy_recheck, end_server, serve, work
from trimtab.flows.deploy import deploy as deploy_recipe
from trimtab.tasks.admin.doctor import require_server
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import RecipeFile

app = typer.Typer()


@app.command()
def deploy(
    ctx: typer.Context,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|NAME@ALIAS", help="A recipe to run, or a published plan to measure again.")
    ],
    cron: Annotated[str | None, typer.Option(metavar="CRON", help='UTC, for example "0 3 * * *".')] = None,
    name: Annotated[str | None, typer.Option(help="Of the deployment. Default: the recipe's name.")] = None,
    overrides: SET = None,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="NAME@ALIAS: name the former version again if the plan is worse.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Put a recipe, or the recheck of a plan, on a schedule, on a Prefect server."""
    home = Home.at(ctx.obj)
    if cron is not None:
        check_cron(cron)
    if "@" in recipe and not Path(recipe).exists():
        check_alias_of(recipe, roll_back)
        home.catalog.get(recipe)
        require_server()
        deployed = deploy_recheck(recipe, name or recipe.replace("@", "-"), home.url, cron, roll_back)
    else:
        file = RecipeFile.read(recipe, overrides or ())
        require_server()
        deployed = deploy_recipe(file, name or file.recipe.name, home.url, cron)
    if as_json:
        return echo_json(asdict(deployed))
    echo_fields(asdict(deployed))
    echo("next: trimtab worker")


@app.command()
def server(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine only.")] = 4200,
    background: Annotated[bool, typer.Option("--background", help="Return at once.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the one in the background.")] = False,
) -> int:
    """A Prefect server with its page, on this machine; nothing is sent anywhere."""
    if stop:
        return end_server()
    echo(f"export PREFECT_API_URL=http://127.0.0.1:{port}/api")
    return serve(port, background)


@app.command()
def worker() -> int:
    """Run deployed recipes until stopped."""
    require_server()
    return work()
