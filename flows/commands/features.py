"""features: what is in a feature set, and one feature of it for `trimtab show REF --feature N`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.flows.commands._show import JSON, echo, echo_fields, echo_json, echo_table, shown
from trimtab.tasks.features.views import SORTS, feature_details, feature_rows
from trimtab.tasks.home import Home
from trimtab.tasks.reporting.features_report import write_features_page

app = typer.Typer()
SHOWN_TOPS = 10


@app.command()
def features(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A feature set; `trimtab run` makes them.")],
    find: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only those with this in label, tokens or concept.")
    ] = None,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(SORTS)}.")] = "size",
    limit: Annotated[int, typer.Option(min=1, help="At most this many are listed.")] = 40,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the browser's page here instead.")] = None,
    as_json: JSON = False,
) -> None:
    """List a feature set, or write its browser page."""
    home = Home.at(ctx.obj)
    if html is not None:
        return echo(str(write_features_page(home, ref, html)))
    rows = feature_rows(home, ref, sort, find)
    if as_json:
        return echo_json(rows)
    cells = (
        [r["number"], r["label"], r["firing"], r["peak"], " ".join(r["tokens"]), " ".join(r["detects"])]
        for r in rows[:limit]
    )
    echo_table(("#", "label", "fires", "peak", "strongest tokens", "detects"), cells)
    echo(f"\n{min(limit, len(rows))} of {len(rows)}; `trimtab show {ref} --feature N` shows one", err=True)


def show_feature(home: Home, ref: str, number: int, as_json: bool) -> None:
    """`trimtab show REF --feature N`."""
    feature = feature_details(home, ref, number)
    if as_json:
        return echo_json(feature)
    echo_fields({"feature": f"{feature['ref']}:{number}", "site": feature["site"], "label": feature.get("label", "")})
    echo_fields({name: feature.get(name) for name in ("firing", "peak", "size")})
    for name in ("promoted", "suppressed"):
        echo(f"\n{name}: {' '.join(repr(token) for token, _ in feature.get(name, [])[:12])}")
    echo(f"neurons: {_pairs(feature.get('neurons', [])[:10])}")
    echo(f"nearest: {', '.join(f'#{n} (cosine {shown(c)}, {s} neurons shared)' for n, c, s in feature['nearest'])}")
    for concept in feature["concepts"]:
        echo(f"detects {concept['concept']}: held-out AUROC {shown(concept['auroc'])} (null {shown(concept['null'])})")
    echo("")
    for top in feature.get("tops", [])[:SHOWN_TOPS]:
        echo(f"{shown(top['activation']):>7}  {_line(top)}")


def _pairs(pairs: list[Any]) -> str:
    return ", ".join(f"{name} ({shown(value)})" for name, value in pairs)


def _line(top: dict[str, Any]) -> str:
    return f"{top['before'][-60:]}[{top['token']}]{top['after'][:40]}".replace("\n", " ")
