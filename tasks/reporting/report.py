"""The report of a verdict: one HTML file that opens anywhere, offline, and can be attached to a paper."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task

from trimtab.store import Artifact
from trimtab.store.catalog.lineage import lineage
from trimtab.tasks.data.examples import read_lexicon
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.recipe import Recipe
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.page import page
from trimtab.tasks.reporting.seal import sealed
from trimtab.tasks.timing import seconds_of


def render(verdict: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The page as text; the same input gives the same bytes.

    verdict: `Verdict.to_json()`, also after a trip through JSON text. provenance: its keys are in
    `reporting/provenance.py`, all optional. Raises ValueError naming a required field that is missing.
    """
    return page(verdict, provenance)


def write_report(verdict: Mapping[str, Any], provenance: Mapping[str, Any], path: Path) -> Path:
    """Write the page to `path` and return it; folders are made. Written beside and renamed: a reader never
    sees half a page, and a failure leaves the previous one."""
    return write_page(render(verdict, provenance), path)


def write_page(text: str, path: Path) -> Path:
    """Write a page, with its seal, beside its place and rename it; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(sealed(text))
        # mkstemp makes files private; a report is to be read by others, as any new file is
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path


@task(name="report")
def report_task(recipe: Recipe, home: str, made: tuple[Reference, Reference], command: str | None = None) -> str:
    """See `report_recipe`."""
    return str(report_recipe(recipe, Home.at(home), made, command))


def report_recipe(recipe: Recipe, home: Home, made: tuple[Reference, Reference], command: str | None = None) -> Path:
    """Write `reports/<name>@<version>.html` for a published plan; one that is there already stays.

    made: the plan and its verdict. command: to reproduce them (see `command.py`).
    """
    plan, verdict = made
    path = home.reports / f"{plan.ref}.html"
    if plan.reused and path.exists():
        return path
    published, judged = home.catalog.get(plan.ref), home.catalog.get(verdict.ref)
    provenance = {**provenance_of(recipe, home, published, judged), "command": command}
    return write_report(judged.header["verdict"], provenance, path)


def provenance_of(recipe: Recipe, home: Home, published: Artifact, judged: Artifact) -> dict[str, Any]:
    """Where a published plan came from, for its report."""
    behaviour = recipe.judge.behaviour
    lexicon = behaviour.lexicon if behaviour else None
    return {
        "ref": published.ref,
        "digest": published.digest,
        "created": published.created,
        "model": published.header["model"],
        "parents": [parent.ref for parent in published.parents],
        "lineage": str(lineage(home.catalog, published.ref)).splitlines(),
        "versions": dict(published.libraries),
        "seconds": {"validate": seconds_of(judged)} if seconds_of(judged) is not None else {},
        "recipe": published.recipe,
        "lexicon": list(read_lexicon(lexicon)["positive"]) if lexicon else None,
    }
