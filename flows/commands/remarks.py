"""describe, tag, note, deprecate: what people say of names and versions, outside of what was published."""

from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo, echo_json
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.registry.remarks import say

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, every version, later ones too.")]


@app.command()
def describe(
    ctx: typer.Context,
    ref: REF,
    text: Annotated[str | None, typer.Argument(help="What it is; an empty text takes the former one back.")] = None,
    use: Annotated[str | None, typer.Option(help="What it is meant for, and what not.")] = None,
    licence: Annotated[str | None, typer.Option(metavar="SPDX", help="For example Apache-2.0.")] = None,
    as_json: JSON = False,
) -> None:
    """Say what a name or version is, what it is for, and under which licence."""
    remarks = [("description", text), ("use", use), ("licence", licence)]
    said = [(field, words) for field, words in remarks if words is not None]
    if not said:
        raise RecipeError(f"describe {ref}: say something: a text, --use or --licence")
    _tell(ref, say(Home.at(ctx.obj), ref, said), as_json)


@app.command()
def tag(
    ctx: typer.Context,
    ref: REF,
    tags: Annotated[list[str] | None, typer.Argument(metavar="[TAG]...", help="To add.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="TAG", help="To remove; repeatable.")] = None,
    as_json: JSON = False,
) -> None:
    """Add or remove tags of a name or version. `trimtab ls --where "'reviewed' in tag"` finds them."""
    said = [("tag", one) for one in tags or ()] + [("untag", one) for one in remove or ()]
    if not said:
        raise RecipeError(f"tag {ref}: name a tag to add, or --remove one")
    _tell(ref, say(Home.at(ctx.obj), ref, said), as_json)


@app.command()
def note(
    ctx: typer.Context,
    ref: REF,
    text: Annotated[str, typer.Argument(help="Stays, with who and when.")],
    as_json: JSON = False,
) -> None:
    """Add a note to a name or version."""
    _tell(ref, say(Home.at(ctx.obj), ref, [("note", text)]), as_json)


@app.command()
def deprecate(
    ctx: typer.Context,
    ref: REF,
    reason: Annotated[str, typer.Argument(help="Why, and what to use instead.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    as_json: JSON = False,
) -> None:
    """Warn wherever a name or version is loaded."""
    if bool(reason.strip()) == undo:
        raise RecipeError(f"deprecate {ref}: give a reason, or --undo, and not both")
    _tell(ref, say(Home.at(ctx.obj), ref, [("deprecated", reason)]), as_json)


def _tell(ref: str, remarks: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        return echo_json(remarks)
    for remark in remarks:
        echo(
            f"{ref}: {remark['field']}: {remark['text']}" if remark["text"] else f"{ref}: {remark['field']} taken back"
        )
