"""site: the catalog as a folder of pages."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo, echo_fields, echo_json
from trimtab.tasks.home import Home
from trimtab.tasks.reporting.site import write_site

app = typer.Typer()


@app.command()
def site(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New, empty, or a site written before.")],
    title: Annotated[str, typer.Option(help="Heading of the first page.")] = "Catalog",
    as_json: JSON = False,
) -> None:
    """The catalog as a static site: names, versions over time, lineage, reports."""
    written = write_site(Home.at(ctx.obj), folder, title)
    if as_json:
        return echo_json(asdict(written))
    echo_fields(asdict(written))
    echo(f"\nopen {folder / 'index.html'}, or serve the folder: python -m http.server -d {folder}", err=True)
