"""recheck: a published plan measured again, today."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from trimtab.flows.commands._progress import shown_progress
from trimtab.flows.commands._show import JSON, echo, echo_json
from trimtab.flows.produce import recheck as recheck_flow
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.plans.recheck import Drift

app = typer.Typer()


@app.command()
def recheck(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, the latest version.")],
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Let the alias name its former version again if the plan is worse.")
    ] = False,
    as_json: JSON = False,
) -> int:
    """Measure a published plan again, with the model and libraries of today, beside its verdict.

    Exit code 1 when it is worse beyond noise, or no longer shows what its recipe requires."""
    check_alias_of(ref, roll_back)
    text, result, code = _result(ref, Home.at(ctx.obj), roll_back, as_json)
    if as_json:
        echo_json({**asdict(result), "drifted": result.drifted, "text": text})
    else:
        echo(text)
    return code


def check_alias_of(ref: str, roll_back: bool) -> None:
    """Raises RecipeError when an alias is to be rolled back and none is named."""
    selector = ref.partition("@")[2]
    if roll_back and (not selector or selector.isdecimal() or selector == "latest"):
        raise RecipeError(
            f"--roll-back moves an alias, and {ref} names none; write for example {ref.split('@')[0]}@prod"
        )


def _result(ref: str, home: Home, roll_back: bool, quiet: bool) -> tuple[str, Any, int]:
    """One sentence, what was measured, and the exit code."""
    with shown_progress(quiet):
        try:
            rechecked = recheck_flow(ref, home.url, roll_back)
            return rechecked.text, rechecked, 0
        except Drift as drift:
            return str(drift), drift.result, 1
