"""repair: rows that were lost."""

from typing import Annotated

import typer

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, echo, echo_json, echo_table
from trimtab.tasks.home import Home
from trimtab.tasks.registry.repair import repair as repaired

app = typer.Typer()


@app.command()
def repair(
    ctx: typer.Context,
    ref: Annotated[
        str | None, typer.Argument(metavar="[NAME[@VERSION|@ALIAS]]", help="Only the captures it was made from.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Collect lost or damaged rows of published captures again. Versions, and what was made from them, stay."""
    with shown_progress(quiet=as_json):
        repairs = [one.to_json() for one in repaired(Home.at(ctx.obj), ref)]
    if as_json:
        return echo_json(repairs)
    mended = [one for one in repairs if one["wrong"]]
    if not mended:
        return echo(f"{len(repairs)} captures read: nothing is lost or damaged", err=True)
    cells = ((one["ref"], one["wrong"], one["regions"], one["computed"]) for one in mended)
    echo_table(("repaired", "what was wrong", "regions", "tokens run"), cells)
