"""The report of a verdict: one HTML file that opens anywhere, offline, and can be attached to a paper."""

from pathlib import Path
from typing import Any

from prefect import task

from trimtab.store import Artifact
from trimtab.store.catalog.lineage import lineage
from trimtab.tasks.data.judging import read_lexicon
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.seal import write_page
from trimtab.tasks.reporting.verdict_page import verdict_page
from trimtab.tasks.step import seconds_of


@task(name="report")
def verdict_report_task(
    recipe: BehaviourRecipe, home: str, published: tuple[Reference, Reference], command: str | None = None
) -> str:
    """See `report_recipe`."""
    return str(report_recipe(recipe, Home.at(home), published, command))


def report_recipe(
    recipe: BehaviourRecipe, home: Home, published: tuple[Reference, Reference], command: str | None = None
) -> Path:
    """Write `reports/<name>@<version>.html` for a published plan; one that is there already stays.

    published: the plan and its verdict. command: to reproduce them (see `command.py`).
    """
    plan, verdict = published
    path = home.reports / f"{plan.ref}.html"
    if plan.reused and path.exists():
        return path
    artifact, judged = home.catalog.get(plan.ref), home.catalog.get(verdict.ref)
    provenance = {**provenance_of(recipe, home, artifact, judged), "command": command}
    return write_page(verdict_page(judged.header["verdict"], provenance), path)


def provenance_of(recipe: BehaviourRecipe, home: Home, published: Artifact, judged: Artifact) -> dict[str, Any]:
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
