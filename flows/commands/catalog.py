"""ls, show, diff, captures, lineage, verify: what the catalog holds."""

import importlib
from typing import Annotated, Any

import typer

from trimtab.flows.commands._show import JSON, echo, echo_fields, echo_json, echo_table, echo_tree, size
from trimtab.tasks.home import Home
from trimtab.tasks.registry import views

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, the latest version.")]
SHORT = 12


@app.command()
def ls(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", "-a", help="Every version, not just the newest.")] = False,
    kind: Annotated[str | None, typer.Option(help="Only this kind: plan, capture, verdict, ranking, ...")] = None,
    where: Annotated[
        str,
        typer.Option(metavar="EXPRESSION", help="Of all versions those that satisfy it: 'beats_random and kl < 0.3'."),
    ] = "",
    sort: Annotated[str, typer.Option(metavar="[-]FIELD", help="By a field; -effect: largest first.")] = "",
    as_json: JSON = False,
) -> None:
    """What is in the catalog. --where and --sort look at every version."""
    home = Home.at(ctx.obj)
    rows = views.search(home, where, sort, kind) if where or sort else views.listing(home, every, kind)
    if as_json:
        return echo_json(rows)
    if where and not rows:
        return echo(f"no version in {home.url} satisfies {where}", err=True)
    if not rows:
        return echo(f"nothing is published in {home.url} yet; `trimtab run RECIPE` publishes", err=True)
    cells = ((r["ref"], r["kind"], r["aliases"], r["created"][:16], r["digest"][:SHORT], r["headline"]) for r in rows)
    echo_table(("ref", "kind", "aliases", "created", "digest", ""), cells)


@app.command()
def show(
    ctx: typer.Context,
    ref: REF,
    feature: Annotated[int | None, typer.Option(metavar="N", help="One feature of a feature set.")] = None,
    as_json: JSON = False,
) -> None:
    """One version: header, price, verdict, parents, recipe."""
    if feature is not None:
        features = importlib.import_module("trimtab.flows.commands.features")  # brings torch, which lists do without
        return features.show_feature(Home.at(ctx.obj), ref, feature, as_json)
    version = views.details(Home.at(ctx.obj), ref)
    if as_json:
        return echo_json(version)
    echo_fields(_summary(version))
    if isinstance(version["metrics"], dict):
        echo("\nmetrics (KL and effect in nats per token)")
        echo_fields({f"  {name}": value for name, value in version["metrics"].items()})
    if isinstance(version["recipe"], dict):
        echo("\nrecipe")
        echo_fields(_flat(version["recipe"]))
    echo("\n`--json` shows everything, header and libraries too", err=True)


@app.command()
def diff(
    ctx: typer.Context,
    one: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="For example cheerful@3.")],
    other: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="For example cheerful@prod.")],
    as_json: JSON = False,
) -> None:
    """Two versions beside each other: recipe, data, numbers with intervals, vectors."""
    module = importlib.import_module("trimtab.tasks.registry.diff")  # brings torch, which lists do without
    result = module.diff(Home.at(ctx.obj), one, other)
    if as_json:
        return echo_json(result)
    first, second = result["refs"]
    for title, columns in (("recipe", ("key",)), ("data", ("file",)), ("libraries", ("library",))):
        rows = [(row["key"], row["first"], row["second"]) for row in result[title]]
        if rows:
            echo_table((*columns, first, second), rows, f"\n{title}")
    numbers = [(row["key"], row["first"], row["second"], row["change"]) for row in result["numbers"]]
    if numbers:
        echo_table(("", first, second, "second minus first"), numbers, "\nnumbers (KL and effect in nats per token)")
    sites = [(row["site"], row["first"], row["second"], row["cosine"], row["ratio"]) for row in result["sites"]]
    if sites:
        echo_table(("site", first, second, "cosine", "size, second / first"), sites, "\nvectors")
    if not any(result[part] for part in ("recipe", "data", "numbers", "sites", "libraries")):
        echo(f"{first} and {second} do not differ")


@app.command()
def captures(ctx: typer.Context, as_json: JSON = False) -> None:
    """The collected activations: what, how much, where."""
    home = Home.at(ctx.obj)
    rows = views.captures(home)
    if as_json:
        return echo_json(rows)
    if not rows:
        return echo(f"no capture in {home.url} yet; `trimtab collect RECIPE` makes one", err=True)
    cells = (
        (r["ref"], r["points"], r["sites"], r["prompts"], r["rows"], size(r["bytes"]), _checks(r), r["location"])
        for r in rows
    )
    echo_table(("ref", "points", "sites", "texts", "rows", "size", "checked", "where"), cells)


def _checks(row: dict[str, Any]) -> str:
    """When damaged rows are noticed: a capture of an earlier version has no checksums."""
    return "when read" if row["checksum"] else "by verify"


@app.command()
def lineage(ctx: typer.Context, ref: REF, as_json: JSON = False) -> None:
    """From a version back to activations, prompts and model."""
    tree = views.lineage_of(Home.at(ctx.obj), ref)
    return echo_json(tree) if as_json else echo_tree(tree)


@app.command()
def verify(ctx: typer.Context, as_json: JSON = False) -> int:
    """Recompute every digest and say what is not as it was published. Exit code 1 when something is not."""
    home = Home.at(ctx.obj)
    findings = views.findings(home)
    bad = [finding for finding in findings if not finding["ok"]]
    if as_json:
        echo_json(findings)
    else:
        for finding in bad:
            echo(f"BAD  {finding['thing']}: {finding['wrong']}; {finding['cure']}")
        echo(f"{len(findings) - len(bad)} of {len(findings)} things in {home.url} are as they were published")
    return 1 if bad else 0


def _summary(version: dict[str, Any]) -> dict[str, object]:
    return {
        "ref": version["ref"],
        "kind": version["kind"],
        "aliases": version["aliases"],
        "created": version["created"],
        "digest": version["digest"],
        "arrays": [f"{name} {'x'.join(map(str, entry['shape']))}" for name, entry in version["arrays"].items()][:8],
        "parents": [parent["ref"] for parent in version["parents"]],
        "used by": version["children"],
        **_about(version["about"]),
    }


def _about(about: dict[str, Any]) -> dict[str, object]:
    """What is said of a version, as far as anything is."""
    said: dict[str, object] = {name: about[name] for name in ("description", "use", "licence", "tags") if about[name]}
    if about["deprecated"]:
        said["deprecated"] = _signed(about["deprecated"])
    return said | {f"note {number}": _signed(note) for number, note in enumerate(about["notes"], 1)}


def _signed(remark: dict[str, Any]) -> str:
    return f"{remark['text']} ({remark['who']}, {remark['when'][:10]})"


def _flat(value: dict[str, Any], before: str = "  ") -> dict[str, object]:
    """Sections of a recipe as dotted names; files by name, what was not given left out."""
    fields: dict[str, object] = {}
    for name, inner in value.items():
        if isinstance(inner, dict) and set(inner) == {"path", "sha256"}:
            fields[before + name] = f"{inner['path']} (sha256 {inner['sha256'][:SHORT]})"
        elif isinstance(inner, dict):
            fields |= _flat(inner, f"{before}{name}.")
        elif inner is not None:
            fields[before + name] = inner
    return fields
