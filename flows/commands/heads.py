"""rank, ablate: which heads do a task, and whether that is true."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, SET, echo, echo_fields, echo_json, echo_table
from trimtab.flows.localise import ablate as ablate_flow
from trimtab.flows.localise import rank as rank_flow
from trimtab.flows.localise import steer_heads
from trimtab.tasks.heads.ablate import AblateSettings, ranking_of
from trimtab.tasks.heads.plan import HeadPlanSettings
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.heads import load_head_recipe
from trimtab.tasks.registry.views import details

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="RANKING", help="NAME[@VERSION|@ALIAS] of a ranking.")]


@app.command()
def rank(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A head recipe, as in recipes/heads.")],
    overrides: SET = None,
    as_json: JSON = False,
) -> None:
    """Rank a model's heads by what they do for a task."""
    load_head_recipe(recipe, overrides or [])  # before anything is started or written
    home = Home.at(ctx.obj)
    with shown_progress(quiet=as_json):
        made = rank_flow(str(recipe), home.url, overrides or [])
    if as_json:
        return echo_json({**asdict(made.made), "report": made.report, "metrics": _metrics(home, made.made.ref)})
    if made.made.reused:
        echo("nothing to compute: this ranking is in the catalog")
    echo_fields({"published": made.made.ref, **_metrics(home, made.made.ref), "report": made.report})
    echo(f"\nnext: trimtab ablate {made.made.ref} --top 10 --operator mean")


@app.command()
def ablate(
    ctx: typer.Context,
    ref: REF,
    top: Annotated[int, typer.Option(help="Heads taken out, best first.")] = 10,
    operator: Annotated[
        str, typer.Option(help="What is put in their place: zero, mean, resample, corrupted, uniform or scale:0.5.")
    ] = "mean",
    random: Annotated[int, typer.Option(help="Random sets of the same blocks; 19 reach p = 0.05, 99 p = 0.01.")] = 99,
    questions: Annotated[int, typer.Option(help="Held-out questions, at most.")] = 24,
    heads: Annotated[bool, typer.Option("--heads", help="Also every head alone, with Holm and BH.")] = False,
    kl: Annotated[
        float | None,
        typer.Option("--steer", metavar="NATS", help="Instead: scale the heads to this KL, publish a plan."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Test a ranking's top heads beside random sets of heads. Necessary, sufficient, redundant or idle?"""
    home = Home.at(ctx.obj)
    settings = AblateSettings(top, operator, random, questions=questions, heads=heads)
    steered = None if kl is None else HeadPlanSettings(top, kl, random=max(1, min(random, 19)), questions=questions)
    ranking = ranking_of(home, ref).ref  # before anything is started
    with shown_progress(quiet=as_json):
        if steered is not None:
            made = steer_heads(ranking, home.url, steered)
            return _tell_plan(home, made.ref, as_json)
        found = ablate_flow(ranking, home.url, settings)
    if as_json:
        return echo_json({**asdict(found.made), "report": found.report, **_header(home, found.made.ref)})
    _tell(home, found.made.ref, found.report)


def _tell(home: Home, ref: str, report: str) -> None:
    verdict = _header(home, ref)["verdict"]
    echo(verdict["sentence"])
    rows = [
        (name, side["share"], side["effect"], side["over_random"], side["p"])
        for name, side in (("necessity", verdict["necessity"]), ("sufficiency", verdict["sufficiency"]))
    ]
    echo_table(("", "share of the metric", "nats", "more than random sets, nats", "rank p"), rows)
    echo_fields({"published": ref, "report": report})


def _tell_plan(home: Home, ref: str, as_json: bool) -> None:
    metrics = _metrics(home, ref)
    if as_json:
        return echo_json({"ref": ref, "metrics": metrics})
    echo(metrics["sentence"])
    echo_fields({"published": ref, "gain": metrics["gain"], "random": metrics["random"]})
    echo(f'\nnext: trimtab steer {ref} "..."')


def _metrics(home: Home, ref: str) -> dict[str, Any]:
    return details(home, ref)["metrics"]


def _header(home: Home, ref: str) -> dict[str, Any]:
    return details(home, ref)["header"]
