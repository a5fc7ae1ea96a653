"""run: a recipe from prompts to a judged and published plan."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, SET, echo, echo_fields, echo_json, shown
from trimtab.flows.commands.condition import run_condition
from trimtab.flows.commands.features import run_features
from trimtab.flows.produce import Produced, produce
from trimtab.tasks.data.examples import check_judged
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.condition import SECTION as CONDITION
from trimtab.tasks.recipes.features import SECTION as FEATURES
from trimtab.tasks.recipes.file import has_section
from trimtab.tasks.recipes.recipe import load_recipe
from trimtab.tasks.registry.views import details

app = typer.Typer()
SHOWN_ANSWERS = 3


@app.command()
def run(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; `trimtab init` writes one.")],
    overrides: SET = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the recipe, run nothing.")] = False,
    as_json: JSON = False,
) -> None:
    """Run a recipe: collect, fit, price, judge, publish, report. What exists already is not computed again."""
    if has_section(recipe, CONDITION):
        return run_condition(Home.at(ctx.obj), recipe, overrides or [], dry_run, as_json)
    if has_section(recipe, FEATURES):
        return run_features(Home.at(ctx.obj), recipe, overrides or [], dry_run, as_json)
    asked = load_recipe(recipe, overrides or [])  # before anything is started or written
    check_judged(asked.data)
    if dry_run:
        return echo_json(asked.to_json())
    home = Home.at(ctx.obj)
    with shown_progress(quiet=as_json):
        made = produce(str(recipe), home.url, overrides or [])
    if as_json:
        return echo_json({**asdict(made), "reused": made.reused})
    _tell(home, made)


def _tell(home: Home, made: Produced) -> None:
    """A short table, some answers, and what to try next."""
    metrics = details(home, made.plan.ref)["metrics"]
    if made.reused:
        echo("nothing to compute: this recipe was run before, and everything it made is in the catalog")
    echo_fields({"published": made.plan.ref, **metrics, "report": made.report})
    for answer in details(home, made.verdict.ref)["header"]["verdict"]["generations"][:SHOWN_ANSWERS]:
        echo(f"\n> {answer['prompt']}")
        echo(f"  without: {_line(answer['base'])}")
        echo(f"  steered: {_line(answer['steered'])}   ({shown(answer['kl'])} nats per token)")
    name = made.plan.ref.partition("@")[0]
    echo(f'\nnext: trimtab show {name} | trimtab steer {name} "..." | trimtab promote {made.plan.ref} prod')


def _line(text: str) -> str:
    return " ".join(text.split())
