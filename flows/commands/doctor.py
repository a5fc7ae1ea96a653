"""doctor: whether everything is in place, and what will be slow."""

from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo_json, echo_table
from trimtab.tasks.admin.doctor import examine
from trimtab.tasks.admin.families import family_rows
from trimtab.tasks.home import Home

app = typer.Typer()
FAMILIES = Annotated[bool, typer.Option("--families", help="List the model families, and why some are refused.")]


@app.command()
def doctor(ctx: typer.Context, families: FAMILIES = False, as_json: JSON = False) -> int:
    """Versions, model, store, server; what will be slow and why. Exit code 1 when something is missing."""
    if families:
        rows = family_rows()
        names = ("family", "state", "note")
        if as_json:
            echo_json([dict(zip(names, row, strict=True)) for row in rows])
        else:
            echo_table(names, rows)
        return 0
    checks = examine(Home.at(ctx.obj))
    if as_json:
        echo_json([check.to_json() for check in checks])
    else:
        echo_table(("", "what", "found", ""), ((c.state, c.name, c.found, c.advice) for c in checks))
    return 1 if any(check.state == "missing" for check in checks) else 0
