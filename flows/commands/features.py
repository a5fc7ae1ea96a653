"""features: what is in a feature set; and the part of `run` that makes one."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, echo, echo_fields, echo_json, echo_table
from trimtab.flows.features import Decomposed
from trimtab.flows.features import features as features_flow
from trimtab.tasks.features.views import SORTS, feature_rows
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.features import load_features_recipe
from trimtab.tasks.registry.views import details
from trimtab.tasks.reporting.features_report import write_features_page

app = typer.Typer()


@app.command()
def features(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A feature set; `trimtab run` makes them.")],
    find: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only those with this in label, tokens or concept.")
    ] = None,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(SORTS)}.")] = "size",
    limit: Annotated[int, typer.Option(min=1, help="At most this many are listed.")] = 40,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the browser's page here instead.")] = None,
    as_json: JSON = False,
) -> None:
    """List a feature set, or write its browser page."""
    home = Home.at(ctx.obj)
    if html is not None:
        return echo(str(write_features_page(home, ref, html)))
    rows = feature_rows(home, ref, sort, find)
    if as_json:
        return echo_json(rows)
    cells = (
        [r["number"], r["label"], r["firing"], r["peak"], " ".join(r["tokens"]), " ".join(r["detects"])]
        for r in rows[:limit]
    )
    echo_table(("#", "label", "fires", "peak", "strongest tokens", "detects"), cells)
    echo(f"\n{min(limit, len(rows))} of {len(rows)}; `trimtab show {ref} --feature N` shows one", err=True)


def run_features(home: Home, recipe: Path, overrides: list[str], dry_run: bool, as_json: bool) -> None:
    """`trimtab run` of a features recipe."""
    asked = load_features_recipe(recipe, overrides)  # before anything is started or written
    if dry_run:
        return echo_json(asked.to_json())
    with shown_progress(quiet=as_json):
        made = features_flow(str(recipe), home.url, overrides)
    if as_json:
        return echo_json({**asdict(made), "reused": made.reused})
    _tell(home, made)


def _tell(home: Home, made: Decomposed) -> None:
    if made.reused:
        echo("nothing to compute: this recipe was run before, and everything it made is in the catalog")
    echo_fields({"published": made.features.ref, **details(home, made.features.ref)["metrics"], "browser": made.page})
    name = made.features.ref.partition("@")[0]
    echo(f'\nnext: trimtab features {name} | trimtab show {name} --feature 0 | trimtab steer {name}:0 "..." --kl 0.3')
