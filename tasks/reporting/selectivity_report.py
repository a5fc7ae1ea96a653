"""The report of a condition: one self-contained page beside the others."""

from prefect import task

from trimtab.tasks.home import Home
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.seal import write_page
from trimtab.tasks.reporting.selectivity_page import selective_page


@task(name="condition-report")
def selectivity_report_task(home: str, selectivity: Reference, plan: Reference, command: str | None = None) -> str:
    """command: to reproduce it. Write `reports/<name>@<version>.html`; one that is there already stays."""
    place = Home.at(home)
    path = place.reports / f"{plan.ref}.html"
    if not (plan.reused and path.exists()):
        write_page(selective_page(place.catalog.get(selectivity.ref).header, plan.ref, command), path)
    return str(path)
