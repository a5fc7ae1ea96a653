"""Views of a home as plain JSON, for people and scripts: lists of versions, one version, lineage, verification. Reading
creates nothing, and only `verify` reads arrays."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.store import Artifact, StoreError
from trimtab.store.catalog.lineage import LineageNode, lineage
from trimtab.store.catalog.search import search as matches
from trimtab.store.catalog.view import Defect
from trimtab.store.verify import Finding, verify
from trimtab.tasks.home import Home
from trimtab.tasks.reporting.seal import sealed_pages

HEADLINE = (
    "site", "strength", "kl_held_out", "effect", "beats_random", "rank", "held_out", "auroc",
    "method", "top", "word", "necessity", "sufficiency", "gain",
)  # fmt: skip
DAMAGED = "damaged"
Json = dict[str, Any]


def search(home: Home, where: str, sort: str, kind: str | None = None) -> list[Json]:
    """One row per version that satisfies an expression, in an order (`store/catalog/search.py`). Raises StoreError."""
    view = home.catalog.view()
    rows = []
    for one in matches(view.searchables(kind), where, sort):
        aliases = {alias: one.artifact.version for alias in one.fields["alias"]}
        rows.append({**_row(one.artifact, aliases), "tags": one.fields["tag"], "deprecated": one.fields["deprecated"]})
    return rows


def listing(home: Home, every: bool = False, kind: str | None = None) -> list[Json]:
    """One row per name (its newest version), or per version with `every`, oldest first; then the damaged ones. kind:
    only versions of this kind. Raises StoreError when the catalog cannot be read."""
    inventory = home.catalog.inventory(kind)
    newest = {artifact.name: artifact for artifact in inventory.artifacts}
    shown = [a for a in inventory.artifacts if every or newest[a.name] is a]
    rows = [_row(artifact, inventory.aliases.get(artifact.name, {})) for artifact in shown]
    return rows + [_damaged(one) for one in inventory.defects if kind in (None, DAMAGED)]


def captures(home: Home) -> list[Json]:
    """One row per published capture: points, number of sites, rows, prompts and bytes, and where it lies."""
    return [
        {**_row(artifact, {}), **_capture(home, artifact.header)}
        for artifact in home.catalog.inventory("capture").artifacts
    ]


def details(home: Home, ref: str) -> Json:
    """One version: header, metrics, parents and children, aliases, what is said of it, and names, shapes and dtypes of
    its arrays without their numbers. Raises StoreError for an unknown or damaged version."""
    view = home.catalog.view()
    artifact = view.get(ref)
    history = view.history(artifact.name)
    return {
        **_row(artifact, history.aliases),
        "key": artifact.key,
        "header": dict(artifact.header),
        "metrics": artifact.metrics,
        "arrays": {name: _shape(entry) for name, entry in _entries(artifact).items()},
        "parents": [{"ref": parent.ref, "digest": parent.digest} for parent in artifact.parents],
        "children": view.children(artifact.name, artifact.version),
        "about": asdict(view.remarks(artifact.name).about(artifact.version)),
        "recipe": artifact.recipe,
        "libraries": dict(artifact.libraries),
        "history": [asdict(move) for move in history.sound],
    }


def lineage_of(home: Home, ref: str) -> Json:
    """The tree of what a version was made from. Raises StoreError."""
    return _tree(lineage(home.catalog, ref))


def findings(home: Home) -> list[Json]:
    """What `verify` found, one entry per version, capture and report."""
    pages = [_page(path, whole) for path, whole in sealed_pages(home.reports)]
    return [asdict(finding) for finding in (*verify(home.catalog_on_disk()), *pages)]


def _page(path: Path, whole: bool) -> Finding:
    wrong, cure = "it is not the page that was written", "delete it and run its recipe again, which writes it anew"
    return Finding(True, f"report {path}") if whole else Finding(False, f"report {path}", wrong, cure)


def _row(artifact: Artifact, aliases: Mapping[str, int]) -> Json:
    metrics = artifact.metrics if isinstance(artifact.metrics, dict) else {}
    return {
        "ref": artifact.ref,
        "name": artifact.name,
        "version": artifact.version,
        "kind": artifact.kind,
        "digest": artifact.digest,
        "created": artifact.created,
        "aliases": sorted(alias for alias, version in aliases.items() if version == artifact.version),
        "headline": {key: metrics[key] for key in HEADLINE if key in metrics},
    }


def _damaged(one: Defect) -> Json:
    empty = dict.fromkeys(("name", "version", "digest", "created"), "")
    return {"ref": one.ref, **empty, "kind": DAMAGED, "aliases": [], "headline": {"wrong": one.wrong}}


def _capture(home: Home, header: Mapping[str, Any]) -> Json:
    sites = header.get("sites")
    sites = sites if isinstance(sites, list) else []
    return {
        "location": _location(home, header),
        "snapshot": header.get("snapshot"),
        "points": sorted({str(site).partition(".")[0] for site in sites}),
        "sites": len(sites),
        "rows": header.get("n_rows"),
        "prompts": header.get("n_prompts"),
        "bytes": header.get("nbytes"),
        "checksum": header.get("checksum"),  # None: rows are checked by `verify` only
    }


def _location(home: Home, header: Mapping[str, Any]) -> str:
    try:
        return home.captures.locate(header).url
    except StoreError as error:  # one record that names no place must not hide all others
        return f"damaged: {error}"


def _entries(artifact: Artifact) -> Mapping[str, Any]:
    return getattr(artifact.arrays, "entries", {})


def _shape(entry: Any) -> Json:
    return {"dtype": str(entry.dtype), "shape": list(entry.shape)}


def _tree(node: LineageNode) -> Json:
    return {
        "ref": node.ref,
        "kind": node.kind,
        "digest": node.digest,
        "note": node.note,
        "parents": [_tree(child) for child in node.children],
    }
