"""run: a recipe of any kind, from its data to what it publishes."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, RECIPE, SET, echo, echo_fields, echo_json, shown
from trimtab.flows.commands.heads import tell_ablation
from trimtab.flows.commands.study import tell_study
from trimtab.flows.condition import Conditioned
from trimtab.flows.features import Decomposed
from trimtab.flows.kinds import run_file
from trimtab.flows.localise import Localised
from trimtab.flows.produce import Produced
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.registry.gates import GateRefusal
from trimtab.tasks.registry.views import details
from trimtab.tasks.reporting.bill import Bill, Spent, billed

app = typer.Typer()
SHOWN_ANSWERS = 3


@app.command()
def run(
    ctx: typer.Context,
    recipe: Annotated[Path, RECIPE],
    overrides: SET = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the recipe, run nothing.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say at the end where the seconds went.")] = False,
    as_json: JSON = False,
) -> int:
    """Run a recipe: collect, fit, price, judge, publish, report. What exists already is not computed again.

    Exit code 1 when the version that was published fails what the recipe requires."""
    file = RecipeFile.read(recipe, overrides or ())  # before anything is started or written
    if dry_run:
        echo_json(file.recipe.to_json())
        return 0
    home = Home.at(ctx.obj)
    with billed(profile) as bill:
        result, code = _result(file, home, as_json)
    if bill is not None:
        _tell_bill(bill)
    if as_json:
        echo_json({**asdict(result), "reused": result.reused})
        return code
    if result.reused:
        echo("nothing to compute: this recipe was run before, and everything it made is in the catalog")
    TELL[file.recipe.kind](home, result)
    return code


def _tell_bill(bill: Bill) -> None:
    """On stderr, so that it mixes with no `--json`."""
    spent = bill.closed()
    wall, cpu = (sum(getattr(one, unit) for one in spent.values()) for unit in ("wall", "cpu"))
    for stage, one in [*spent.items(), ("all", Spent(wall, cpu))]:
        echo(f"{stage:<24}{one.wall:9.1f} s {one.wall / wall:6.1%}{one.cpu:9.1f} CPU s", err=True)


def _result(file: RecipeFile, home: Home, quiet: bool) -> tuple[Any, int]:
    """What the recipe's flow made, and the exit code."""
    with shown_progress(quiet):
        try:
            return run_file(file, home.url), 0
        except GateRefusal as refusal:
            return refusal.result, 1


def _tell_behaviour(home: Home, result: Produced) -> None:
    """A short table, some answers, and what to try next."""
    plan = result.plan.ref
    echo_fields({"published": plan, **details(home, plan)["metrics"], "report": result.report})
    for answer in details(home, result.verdict.ref)["header"]["verdict"]["generations"][:SHOWN_ANSWERS]:
        echo(f"\n> {answer['prompt']}")
        echo(f"  without: {_line(answer['base'])}")
        echo(f"  steered: {_line(answer['steered'])}   ({shown(answer['kl'])} nats per token)")
    if result.gate is not None:
        echo(f"\n{result.gate.text}")
    name = plan.partition("@")[0]
    echo(f'\nnext: trimtab show {name} | trimtab steer {name} "..." | trimtab promote {plan} prod')


def _tell_features(home: Home, result: Decomposed) -> None:
    ref = result.features.ref
    echo_fields({"published": ref, **details(home, ref)["metrics"], "browser": result.page})
    name = ref.partition("@")[0]
    echo(f'\nnext: trimtab features {name} | trimtab show {name} --feature 0 | trimtab steer {name}:0 "..." --kl 0.3')


def _tell_condition(home: Home, result: Conditioned) -> None:
    ref = result.plan.ref
    echo_fields({"published": ref, **details(home, ref)["metrics"], "report": result.report})
    name = ref.partition("@")[0]
    echo(f'\nnext: trimtab show {name} | trimtab steer {name} "..." | trimtab lineage {ref}')


def _tell_heads(home: Home, result: Localised) -> None:
    ranking = result.ranking.ref
    echo_fields({"published": ranking, **details(home, ranking)["metrics"]})
    if result.ablation is not None:
        return tell_ablation(home, result.ablation.ref, result.report)
    echo_fields({"report": result.report})
    echo(f"\nnext: trimtab ablate {ranking} --top 10 --operator mean")


TELL: dict[str, Callable[[Home, Any], None]] = {
    "behaviour": _tell_behaviour,
    "features": _tell_features,
    "condition": _tell_condition,
    "heads": _tell_heads,
    "study": tell_study,
}


def _line(text: str) -> str:
    return " ".join(text.split())
