"""The report of a verdict: one HTML file that opens anywhere, offline, and can be attached to a paper."""

import html
import re
from pathlib import Path
from typing import Any

from prefect import task

from trimtab.steering.judge.harness import HarnessResult
from trimtab.store import Artifact
from trimtab.store.catalog.lineage import lineage
from trimtab.tasks.data.judging import read_lexicon
from trimtab.tasks.data.sections import DataFile
from trimtab.tasks.errors import DataError
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import make_recipe
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.drawing.verdict import read
from trimtab.tasks.reporting.harness_section import harness_page
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
    return write_page(verdict_page(judged.header["verdict"], provenance, harnesses_of(home, artifact)), path)


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
        "lexicon": _highlighted(lexicon),
    }


def _highlighted(lexicon: DataFile | None) -> list[str] | None:
    """Words to highlight in the answers; none when the file is no longer what the plan was judged with."""
    try:
        return list(read_lexicon(lexicon)["positive"]) if lexicon else None
    except DataError:
        return None


@task(name="harness-report")
def harness_report_task(ref: str, home: str, command: str | None = None) -> str:
    """See `report_harness`."""
    return str(report_harness(ref, Home.at(home), command))


def report_harness(ref: str, home: Home, command: str | None = None) -> Path:
    """Write the scores of a harness into the report of their plan, whose other sections stay as they were. A plan that
    has no verdict gets `reports/<ref>.html` for the scores alone.

    ref: the version that holds the scores. command: to reproduce them.
    """
    scored = home.catalog.get(ref)
    plan = home.catalog.get(scored.parents[0].ref)
    judged = next((one for one in map(home.catalog.get, map(str, plan.parents)) if one.kind == "verdict"), None)
    recipe = make_recipe(plan.recipe) if judged else None
    if judged is None or not isinstance(recipe, BehaviourRecipe):
        provenance = {"ref": ref, "digest": scored.digest, "created": scored.created, "command": command}
        results = [read(HarnessResult, scored.header["harness"])]
        return write_page(harness_page(plan.ref, results, provenance, scored.header), home.reports / f"{ref}.html")
    path = home.reports / f"{plan.ref}.html"
    provenance = {**provenance_of(recipe, home, plan, judged), "command": _command_in(path)}
    return write_page(verdict_page(judged.header["verdict"], provenance, harnesses_of(home, plan)), path)


def harnesses_of(home: Home, plan: Artifact) -> list[HarnessResult]:
    """What other harnesses said of a published plan, oldest first."""
    scored = home.catalog.inventory("harness").artifacts
    mine = [one for one in scored if plan.ref in [parent.ref for parent in one.parents]]
    return [read(HarnessResult, one.header["harness"]) for one in mine]


def _command_in(path: Path) -> str | None:
    """The command to reproduce a plan stands in its report alone, so a page that is written anew takes it over."""
    shown = re.search(r'<pre id="command">(.*?)</pre>', path.read_text("utf-8"), re.DOTALL) if path.exists() else None
    return html.unescape(shown[1]) if shown else None
