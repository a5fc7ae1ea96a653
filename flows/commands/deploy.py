"""deploy, server, worker: recipes on a schedule, which needs a Prefect server."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, SET, echo, echo_fields, echo_json
from trimtab.flows.deploy import deploy as deploy_recipe
from trimtab.flows.deploy import end_server, serve, work
from trimtab.tasks.admin.doctor import require_server
from trimtab.tasks.admin.schedule import check_cron
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.recipe import load_recipe

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
