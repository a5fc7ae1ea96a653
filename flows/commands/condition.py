"""run, for a recipe with a `condition` section: a published plan that acts only where it is wanted."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import echo, echo_fields, echo_json
from trimtab.flows.condition import condition
from trimtab.tasks.data.marked_prompts import labelled_rows
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.condition import ConditionRecipe
from trimtab.tasks.recipes.file import read_recipe
from trimtab.tasks.registry.views import details


def run_condition(home: Home, recipe: Path, overrides: Sequence[str], dry_run: bool, as_json: bool) -> None:
    """Check everything, run the flow, and tell what was published."""
    asked = read_recipe(ConditionRecipe, recipe, overrides)
    labelled_rows(asked.data)  # before anything is started or written
    if dry_run:
        return echo_json(asked.model_dump(mode="json"))
    with shown_progress(quiet=as_json):
        made = condition(str(recipe), home.url, list(overrides))
    if as_json:
        return echo_json({**asdict(made), "reused": made.reused})
    if made.reused:
        echo("nothing to compute: this recipe was run before, and everything it made is in the catalog")
    echo_fields({"published": made.plan.ref, **details(home, made.plan.ref)["metrics"], "report": made.report})
    name = made.plan.ref.partition("@")[0]
    echo(f'\nnext: trimtab show {name} | trimtab steer {name} "..." | trimtab lineage {made.plan.ref}')
