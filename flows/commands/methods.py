"""methods, schema: what can be written in a recipe."""

from collections.abc import Mapping
from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo, echo_json, echo_table
from trimtab.tasks.admin.methods import methods as all_methods
from trimtab.tasks.errors import did_you_mean
from trimtab.tasks.recipes.kinds import KINDS, recipe_schema

app = typer.Typer()


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show this method's page.")] = None, as_json: JSON = False
) -> None:
    """Every method with its meaning and source."""
    rows = all_methods()
    if name is not None:
        rows = [row for row in rows if row["name"] == name]
        if not rows:
            names = [row["name"] for row in all_methods()]
            raise typer.BadParameter(f"unknown method '{name}'{did_you_mean(name, names)}")
    if as_json:
        return echo_json(rows)
    if name is not None:
        return echo("\n\n".join(f"{row['kind']} {row['name']}\n\n{row['page']}" for row in rows))
    cells = ((row["name"], row["kind"], row["meaning"], _fields(row["fields"]), row["source"]) for row in rows)
    echo_table(("name", "kind", "meaning", "fields", "source"), cells)


def _fields(defaults: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in defaults.items())


@app.command()
def schema(
    kind: Annotated[str | None, typer.Argument(help=f"Only this kind: {', '.join(KINDS)}.")] = None,
    as_json: JSON = False,
) -> None:
    """JSON schema of recipes, for editors."""
    echo_json(recipe_schema(kind))
