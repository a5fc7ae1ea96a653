"""What Prefect is told of versions: artifacts that show them, and events that automations act on.

Under one key per name stands a Markdown artifact for every version (Prefect keeps their history), and beside it a table
of all versions; why an alias moved or did not is one more. Events: `trimtab.version.published` and
`trimtab.version.promoted`, of the resource `trimtab.<kind>.<name>`, with parents or alias as related resources.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.settings import get_current_settings

from trimtab.store import Artifact, StoreError
from trimtab.store.catalog.aliases import AliasMove
from trimtab.tasks.home import Home
from trimtab.tasks.progress import artifact_key

PUBLISHED, PROMOTED = "trimtab.version.published", "trimtab.version.promoted"
SHOWN = ("effect", "kl_held_out", "damage", "strength", "site", "beats_random", "sentence")
ROWS = 50  # of the table of versions
Resource = dict[str, str]


def announce_version(home: Home, ref: str) -> None:
    """Tell Prefect of a version that this run published; outside of a run nothing happens.

    A server that does not take it gets no more: work does not end because it cannot be shown.
    """
    if TaskRunContext.get() is None and FlowRunContext.get() is None:
        return
    with contextlib.suppress(httpx.HTTPError, StoreError):
        artifact = home.catalog.view().get(ref)
        key = artifact_key(f"trimtab {artifact.name}")
        create_markdown_artifact(markdown_of(home, artifact), key=key, description=artifact.ref)
        create_table_artifact(table_of(home, artifact.name), key=f"{key}-versions", description=artifact.name)
        related = [{**resource_of(parent), "prefect.resource.role": "parent"} for parent in parents_of(home, artifact)]
        payload = {"ref": artifact.ref, "digest": artifact.digest, "home": home.url, **numbers_of(artifact)}
        emit_event(PUBLISHED, resource=resource_of(artifact), related=related, payload=payload)


def announce_move(home: Home, name: str, move: AliasMove) -> None:
    """Tell Prefect that an alias names another version; without a server, and outside of a run, nothing happens."""
    if FlowRunContext.get() is None and get_current_settings().api.url is None:
        return
    with contextlib.suppress(httpx.HTTPError, StoreError):
        artifact = home.catalog.view().get(f"{name}@{move.after}")
        alias = {"prefect.resource.id": f"trimtab.alias.{name}.{move.alias}", "prefect.resource.role": "alias"}
        payload = {"ref": artifact.ref, "digest": artifact.digest, "home": home.url, **move.as_json()}
        emit_event(PROMOTED, resource=resource_of(artifact), related=[alias], payload=payload)


def announce_decision(ref: str, text: str, checks: Sequence[tuple[str, bool, str]]) -> None:
    """Show why an alias moved, or did not, as a Markdown artifact under one key per name; outside of a run nothing
    happens. checks: what was required, whether it holds, and the number beside its bound."""
    if TaskRunContext.get() is None and FlowRunContext.get() is None:
        return
    rows = [f"| {name} | {'holds' if holds else 'FAILS'} | {_cell(words)} |" for name, holds, words in checks]
    table = ["| required | | |", "|---|---|---|", *rows] if rows else []
    with contextlib.suppress(httpx.HTTPError):
        key = artifact_key(f"trimtab {ref.partition('@')[0]} gate")
        create_markdown_artifact("\n".join([f"# Gate of {ref}", "", text, "", *table]), key=key, description=ref)


def resource_of(artifact: Artifact) -> Resource:
    """The resource of a name, with the version as its label: automations match names, not versions."""
    return {
        "prefect.resource.id": f"trimtab.{artifact.kind}.{artifact.name}",
        "prefect.resource.name": artifact.ref,
        "trimtab.version": str(artifact.version),
        "trimtab.digest": artifact.digest,
    }


def parents_of(home: Home, artifact: Artifact) -> list[Artifact]:
    """What a version was made from, each once."""
    return [home.catalog.view().get(ref) for ref in dict.fromkeys(parent.ref for parent in artifact.parents)]


def markdown_of(home: Home, artifact: Artifact) -> str:
    """A version for people: what it is, its numbers, where it came from, its report, and what to do with it."""
    numbers = [f"| {name} | {_cell(value)} |" for name, value in numbers_of(artifact).items()]
    table = ["| | |", "|---|---|", *numbers, ""] if numbers else []
    report = home.reports / f"{artifact.ref}.html"
    page = f"report: `{report}`" if artifact.kind == "plan" else ""
    parents = ", ".join(f"`{parent.ref}`" for parent in artifact.parents) or "nothing"
    what = f"{artifact.kind}, digest `{artifact.digest[:12]}`, {artifact.created[:19]} UTC"
    show = f"`trimtab --home {home.url} show {artifact.ref}`"
    return "\n".join([f"# {artifact.ref}", "", what, "", *table, f"made from {parents}", "", page, "", show])


def table_of(home: Home, name: str) -> list[dict[str, Any]]:
    """Every version of a name, the newest first."""
    view = home.catalog.view()
    aliases = view.history(name).aliases
    return [_row(view.artifact(name, version), aliases) for version in reversed(view.versions(name)[-ROWS:])]


def _row(artifact: Artifact, aliases: Mapping[str, int]) -> dict[str, Any]:
    naming = ", ".join(alias for alias, version in aliases.items() if version == artifact.version)
    numbers = {name: _cell(value) for name, value in numbers_of(artifact).items() if name != "sentence"}
    return {"version": artifact.ref, "aliases": naming, "created": artifact.created[:19], **numbers}


def numbers_of(artifact: Artifact) -> dict[str, Any]:
    """The metrics that versions are compared by."""
    metrics = artifact.metrics if isinstance(artifact.metrics, dict) else {}
    return {name: metrics[name] for name in SHOWN if name in metrics}


def _cell(value: Any) -> str:
    if isinstance(value, Mapping) and {"mean", "low", "high"} <= value.keys():
        return f"{value['mean']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
