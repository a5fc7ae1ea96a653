"""rank, ablate: which heads do a task, and whether that is true."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, SET, echo, echo_fields, echo_json, echo_table
from trimtab.flows.localise import ablate as ablate_flow
from trimtab.flows.localise import rank as rank_flow
from trimtab.flows.localise import steer_heads
from trimtab.tasks.heads.ablate import AblateSettings, ranking_of
from trimtab.tasks.heads.plan import HeadPlanSettings
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.heads import HeadRecipe
from trimtab.tasks.recipes.kinds import RecipeFile
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
    file = RecipeFile.read(recipe, overrides or ())  # before anything is started or written
    file.expect(HeadRecipe)
    home = Home.at(ctx.obj)
    with shown_progress(quiet=as_json):
        localised = rank_flow(file, home.url)
    ranking, metrics = localised.ranking, details(home, localised.ranking.ref)["metrics"]
    if as_json:
        return echo_json({**asdict(ranking), "report": localised.report, "metrics": metrics})
    if ranking.reused:
        echo("nothing to compute: this ranking is in the catalog")
    echo_fields({"published": ranking.ref, **metrics, "report": localised.report})
    echo(f"\nnext: trimtab ablate {ranking.ref} --top 10 --operator mean")


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
            plan = steer_heads(ranking, home.url, steered)
            return _tell_plan(home, plan.ref, as_json)
        test = ablate_flow(ranking, home.url, settings)
    if as_json:
        return echo_json({**asdict(test.ablation), "report": test.report, **details(home, test.ablation.ref)["header"]})
    tell_ablation(home, test.ablation.ref, test.report)


def tell_ablation(home: Home, ref: str, report: str) -> None:
    """The verdict on the top heads in a sentence and a table."""
    verdict = details(home, ref)["header"]["verdict"]
    echo(verdict["sentence"])
    rows = [
        (name, side["share"], side["effect"], side["over_random"], side["p"])
        for name, side in (("necessity", verdict["necessity"]), ("sufficiency", verdict["sufficiency"]))
    ]
    echo_table(("", "share of the metric", "nats", "more than random sets, nats", "rank p"), rows)
    echo_fields({"published": ref, "report": report})


def _tell_plan(home: Home, ref: str, as_json: bool) -> None:
    metrics = details(home, ref)["metrics"]
    if as_json:
        return echo_json({"ref": ref, "metrics": metrics})
    echo(metrics["sentence"])
    echo_fields({"published": ref, "gain": metrics["gain"], "random": metrics["random"]})
    echo(f'\nnext: trimtab steer {ref} "..."')
