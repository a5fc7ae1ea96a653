"""export, fold: a published plan for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._show import echo
from trimtab.tasks.home import Home
from trimtab.tasks.plans.files import Leaving, export_plan, fold_plan

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, the latest version.")]
STRENGTH = Annotated[float, typer.Option(help="Times the published strength.")]
EVERY_TOKEN = Annotated[
    bool, typer.Option("--every-token", help="Steer all tokens, whatever the plan was priced on; the price is void.")
]


@app.command()
def export(
    ctx: typer.Context,
    ref: REF,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What to write; nothing is overwritten.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="gguf (llama.cpp), repeng, steering-vectors, svec, lm-eval, brainpatch, steerkit, safetensors, hf.",
        ),
    ],
    strength: STRENGTH = 1.0,
    every_token: EVERY_TOKEN = False,
) -> None:
    """A published plan as a file of another tool; what its format cannot say is refused."""
    echo(f"{export_plan(ref, Home.at(ctx.obj), to, path, Leaving(strength, every_token))} is in {path}")


@app.command()
def fold(
    ctx: typer.Context,
    ref: REF,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What to write; must be new or empty.")],
    strength: STRENGTH = 1.0,
    every_token: EVERY_TOKEN = False,
) -> None:
    """A checkpoint with the plan in its weights, for any loader; a plan that no weights can hold is refused."""
    version = fold_plan(ref, Home.at(ctx.obj), folder, Leaving(strength, every_token))
    echo(f"{version} is folded into the checkpoint in {folder}")
