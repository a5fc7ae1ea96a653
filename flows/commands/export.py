"""export, fold: a published plan for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._show import echo
from trimtab.tasks.home import Home
from trimtab.tasks.plans.files import Destination, Leaving, Repository, export_plan, fold_plan, push_plan

app = typer.Typer()
HUB = "hf"
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, the latest version.")]
STRENGTH = Annotated[float, typer.Option(help="Times the published strength.")]
EVERY_TOKEN = Annotated[
    bool, typer.Option("--every-token", help="Steer all tokens, whatever the plan was priced on; the price is void.")
]


@app.command()
def export(
    ctx: typer.Context,
    ref: REF,
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="What to write; nothing is overwritten.", show_default=False)
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="gguf (llama.cpp), repeng, steering-vectors, svec, lm-eval, brainpatch, steerkit, safetensors, hf.",
        ),
    ] = None,
    strength: STRENGTH = 1.0,
    every_token: EVERY_TOKEN = False,
    licence: Annotated[str, typer.Option(metavar="SPDX", help="Licence that the model card says (hf).")] = "",
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository of the Hub (hf).")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A repository that --push makes is private.")] = False,
) -> None:
    """A published plan as a file of another tool; what its format cannot say is refused."""
    home, leaving = Home.at(ctx.obj), Leaving(strength, every_token)
    if push is None and path is None:
        raise typer.BadParameter("name the file to write, or --push OWNER/NAME", ctx, param_hint="FILE")
    if push is None and to is None:
        raise typer.BadParameter("name the format", ctx, param_hint="--to")
    if push is not None and to not in (None, HUB):
        raise typer.BadParameter(f"the Hub takes --to {HUB} alone, not {to}", ctx, param_hint="--push")
    if path is not None:
        echo(f"{export_plan(ref, home, Destination(to or HUB, path, licence), leaving)} is in {path}")
    if push is not None:
        version, address = push_plan(ref, home, Repository(push, private, licence), leaving)
        echo(f"{version} is at {address}")


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
