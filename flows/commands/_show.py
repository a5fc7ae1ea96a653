"""How results are shown: JSON for scripts, tables for people. Results go to stdout, everything else to stderr."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from trimtab.flows.plain_text import visible, visible_json

JSON = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
RECIPE = typer.Argument(metavar="RECIPE", help="A YAML file of any kind; `trimtab init` writes one.")
SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe, for example budget.kl=0.2."),
]


def echo(text: str, err: bool = False) -> None:
    """A line, or several, on stdout or stderr: with `console`, the only way to a terminal."""
    typer.echo(visible(text), err=err)


def echo_json(value: object) -> None:
    """JSON on stdout; infinities, which JSON lacks, as null."""
    typer.echo(visible_json(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)))


def echo_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table; the cells are text, never markup."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(visible(shown(cell))) for cell in row))
    console().print(table)


def echo_fields(fields: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        echo(f"{name:<{width}}  {shown(value)}".rstrip())


def echo_tree(node: Mapping[str, Any]) -> None:
    """A lineage."""
    console().print(_branch(node))


def console(stderr: bool = False) -> Console:
    """Wide when nobody looks, so that lines are not broken in files."""
    terminal = Console(stderr=stderr, highlight=False)
    return terminal if terminal.is_terminal else Console(stderr=stderr, highlight=False, width=200)


def shown(value: object) -> str:
    """A cell: numbers with four digits, intervals as `mean [low, high]`, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping) and {"mean", "low", "high"} <= set(value):
        return f"{shown(value['mean'])} [{shown(value['low'])}, {shown(value['high'])}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(inner)}" for name, inner in value.items())
    return ", ".join(map(shown, value)) if isinstance(value, list | tuple) else str(value)


def size(count: object) -> str:
    """Bytes for people."""
    if not isinstance(count, int | float):
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def _branch(node: Mapping[str, Any]) -> Tree:
    head = f"{node['ref']}  {node['kind']}  {node['digest'][:12]}"
    tree = Tree(Text(visible(f"{head}  {node['note']}".rstrip())))
    for parent in node["parents"]:
        tree.add(_branch(parent))
    return tree


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
