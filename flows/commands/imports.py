"""import: a steering file of another tool becomes a published plan."""

from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._show import echo
from trimtab.tasks.home import Home
from trimtab.tasks.plans.importing import import_plan

app = typer.Typer()


@app.command("import")
def import_file(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A steering file, a folder of `export --to hf`, or OWNER/NAME.")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name to publish it under.")],
    model: Annotated[
        str, typer.Option(metavar="ID|FOLDER", help="The model that it steers: smollm2, a folder, or a hub id.")
    ] = "smollm2",
    format_name: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help="Name of the format; by default told by the file.")
    ] = None,
) -> None:
    """Publish another tool's steering file as a plan, with where it came from; nothing in the file is executed.

    No price is claimed for it: nothing of it was measured here."""
    published = import_plan(path, model, name, Home.at(ctx.obj), format_name)
    echo(f"{path} is {published.ref}{' already' if published.reused else ''}; it has no price and no verdict")
