"""promote: which version an alias names."""

from dataclasses import asdict
from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo, echo_json
from trimtab.tasks.home import Home
from trimtab.tasks.registry import gates

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, the latest version.")]
ALIAS = Annotated[str, typer.Argument(help="For example prod.")]


@app.command()
def promote(
    ctx: typer.Context,
    ref: REF,
    alias: ALIAS,
    force: Annotated[bool, typer.Option("--force", help="Even if it fails what its recipe requires.")] = False,
    note: Annotated[str, typer.Option(help="Why; recorded with the move.")] = "",
    as_json: JSON = False,
) -> None:
    """Let NAME@ALIAS mean a version that shows what its recipe requires. The move is recorded, and so is --force."""
    home = Home.at(ctx.obj)
    name = home.catalog.get(ref).name
    move = gates.promote(home, ref, alias, force, note)
    if as_json:
        return echo_json({"name": name, **asdict(move)})
    before = f" (was @{move.before})" if move.before is not None else ""
    echo(f"{name}@{alias} is {name}@{move.after}{before}{f': {move.note}' if move.note else ''}")
