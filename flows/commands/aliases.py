"""promote, rollback, unalias, aliases: which version an alias names."""

from dataclasses import asdict
from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo, echo_json, echo_table
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.registry import gates

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, the latest version.")]
NAMED = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="For example cheerful@prod.")]
NOTE = Annotated[str, typer.Option(help="Why; recorded with the move.")]
ALIAS = Annotated[str, typer.Argument(help="For example prod.")]


@app.command()
def promote(
    ctx: typer.Context,
    ref: REF,
    alias: ALIAS,
    force: Annotated[bool, typer.Option("--force", help="Even if it fails what its recipe requires.")] = False,
    note: NOTE = "",
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


@app.command()
def rollback(ctx: typer.Context, ref: NAMED, note: NOTE = "", as_json: JSON = False) -> None:
    """Let NAME@ALIAS mean again what it meant before; the move is recorded."""
    name, alias = _named(ref)
    move = gates.roll_back(Home.at(ctx.obj), name, alias, note)
    if as_json:
        return echo_json({"name": name, **asdict(move)})
    echo(f"{ref} is {name}@{move.after} again (was @{move.before})")


@app.command()
def unalias(ctx: typer.Context, ref: NAMED, note: NOTE = "", as_json: JSON = False) -> None:
    """Let NAME@ALIAS mean nothing; the versions and the history of its moves stay."""
    name, alias = _named(ref)
    move = Home.at(ctx.obj).catalog.unalias(name, alias, note=note)
    if as_json:
        return echo_json({"name": name, **asdict(move)})
    echo(f"{ref} names nothing now (was @{move.before})")


@app.command("aliases")
def list_moves(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME[@ALIAS]")], as_json: JSON = False
) -> None:
    """Every move of a name's aliases: from where to where, by whom, when and why."""
    name, _, alias = name.partition("@")
    moves = [move for move in Home.at(ctx.obj).catalog.history(name) if alias in ("", move.alias)]
    if as_json:
        return echo_json([asdict(move) for move in moves])
    if not moves:
        return echo(f"no alias of {name} was ever moved; `trimtab promote {name} prod` moves one", err=True)
    cells = ((move.alias, move.before, move.after, move.when[:19], move.who, move.note) for move in moves)
    echo_table(("alias", "from", "to", "when", "who", "why"), cells)


def _named(ref: str) -> tuple[str, str]:
    name, at, alias = ref.partition("@")
    if not at or not alias:
        raise RecipeError(f"{ref} names no alias; write {name}@prod")
    return name, alias
