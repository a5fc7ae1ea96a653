"""delete, gc: room on the disk."""

from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo, echo_fields, echo_json, echo_table, size
from trimtab.tasks.home import Home
from trimtab.tasks.registry.housekeeping import delete_version, garbage

app = typer.Typer()


@app.command()
def delete(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A capture's rows are deleted with it.")],
    as_json: JSON = False,
) -> None:
    """Delete a version that nothing else was made from."""
    if "@" not in ref:
        raise typer.BadParameter(f"'{ref}' names no version; write {ref}@1", ctx, param_hint="NAME@VERSION")
    deletion = delete_version(Home.at(ctx.obj), ref)
    if as_json:
        return echo_json(deletion)
    echo_fields({"deleted": deletion["ref"], "kind": deletion["kind"]})
    if deletion["kept"]:
        echo(deletion["kept"], err=True)


@app.command()
def gc(
    ctx: typer.Context,
    older_than: Annotated[str, typer.Option("--older-than", help="Age, at least an hour: 36h, 7d, 2w.")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which captures would go.")] = False,
    as_json: JSON = False,
) -> None:
    """Free captures never published, and chunks of old snapshots."""
    pieces = garbage(Home.at(ctx.obj), older_than, dry_run)
    if as_json:
        return echo_json(pieces)
    if not pieces:
        return echo(f"nothing older than {older_than} can be freed", err=True)
    cells = ((one["place"], one["what"], size(one["bytes"])) for one in pieces)
    echo_table(("place", "what", "would free" if dry_run else "freed"), cells)
