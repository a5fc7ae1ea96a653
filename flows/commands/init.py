"""init: a starter recipe and data files."""

from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._show import echo
from trimtab.tasks.admin.starter import write_starter

app = typer.Typer()


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty.")]) -> None:
    """A starter recipe and data files, ready to edit and run."""
    for path in write_starter(folder):
        echo(f"wrote {path}")
    echo(f"next: trimtab run {folder / 'recipe.yaml'}")
