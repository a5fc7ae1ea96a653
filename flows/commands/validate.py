"""validate: a published plan in another evaluation harness."""

from dataclasses import asdict
from typing import Annotated

import typer
import yaml

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, echo, echo_fields, echo_json, echo_table
from trimtab.flows.evaluate import evaluate
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.inspect.evaluation import harness_module
from trimtab.tasks.inspect.options import Evaluation
from trimtab.tasks.plans.steer import steering_of
from trimtab.tasks.registry.views import details

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="A plan; without @, its latest version.")]
TASK = Annotated[
    str,
    typer.Option("--inspect", metavar="TASK", help="FILE.py, FILE.py@NAME, or the name of an installed one."),
]


@app.command()
def validate(
    ctx: typer.Context,
    ref: REF,
    task: TASK,
    arguments: Annotated[
        list[str] | None, typer.Option("-T", metavar="NAME=VALUE", help="An argument of the task.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only the first so many samples.")] = None,
    tokens: Annotated[int, typer.Option(min=1, max=2048, help="At most this many an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=10.0, help="Of sampling; 0: greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of sampling.")] = 0,
    as_json: JSON = False,
) -> None:
    """Run a task of Inspect without and with a published plan; the paired scores go into its report."""
    harness_module()  # before anything is started
    home = Home.at(ctx.obj)
    artifact = home.catalog.get(ref)
    steering_of(artifact, None)
    evaluation = Evaluation(task, _arguments(arguments or ()), limit, tokens, temperature, seed)
    with shown_progress(quiet=as_json):
        evaluated = evaluate(artifact.ref, home.url, evaluation)
    result = details(home, evaluated.scores.ref)["header"]["harness"]
    if as_json:
        return echo_json({**asdict(evaluated), "harness": result})
    rows = [(one["name"], one["base"], one["steered"], one["difference"]) for one in result["scores"]]
    echo_table(("score", "base", "steered", "change (paired)"), rows)
    echo_fields({"published": evaluated.scores.ref, "nats per token": result["nats"], "report": evaluated.report})
    echo(f"\nnext: trimtab show {evaluated.scores.ref} | inspect view --log-dir {home.reports.with_name('inspect')}")


def _arguments(words: list[str] | tuple[()]) -> dict[str, object]:
    """`NAME=VALUE` as Inspect reads it: the value as YAML."""
    pairs = [word.partition("=") for word in words]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise RecipeError(f"-T {wrong}: give NAME=VALUE")
    try:
        return {name: yaml.safe_load(value) for name, _, value in pairs}
    except yaml.YAMLError as error:
        raise RecipeError(f"-T: not YAML: {error}") from None
