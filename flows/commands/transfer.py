"""copy, pull: versions with their lineage, from home to home."""

from typing import Annotated, Any

import typer

from trimtab.flows.commands._show import JSON, echo, echo_json, echo_table
from trimtab.tasks.home import Home
from trimtab.tasks.registry.copying import copy_between, home_at

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, the latest version.")]
CAPTURES = Annotated[bool, typer.Option("--captures", help="The rows of its captures too, which may be large.")]


@app.command()
def copy(
    ctx: typer.Context,
    ref: REF,
    to: Annotated[str, typer.Argument(metavar="HOME", help="A folder or s3://bucket/prefix.")],
    captures: CAPTURES = False,
    as_json: JSON = False,
) -> None:
    """Copy a version with its lineage to another home, digests checked at both ends."""
    _tell(copy_between(ref, (Home.at(ctx.obj), home_at(to)), captures), to, as_json)


@app.command()
def pull(
    ctx: typer.Context,
    ref: REF,
    source: Annotated[str, typer.Argument(metavar="HOME", help="A folder or s3://bucket/prefix.")],
    captures: CAPTURES = False,
    as_json: JSON = False,
) -> None:
    """Copy a version with its lineage from another home into this one."""
    here = Home.at(ctx.obj)
    _tell(copy_between(ref, (home_at(source), here), captures), here.url, as_json)


def _tell(versions: list[dict[str, Any]], home: str, as_json: bool) -> None:
    if as_json:
        return echo_json(versions)
    cells = (
        (v["ref"], v["kind"], v["digest"][:12], "copied" if v["copied"] else "was there", v["rows"]) for v in versions
    )
    echo_table(("ref", "kind", "digest", home, "rows"), cells)
    if any(version["rows"] == "left" for version in versions):
        echo("the rows of its captures stay where they are; --captures copies them", err=True)
