"""The page of a study: one self-contained file beside the other reports."""

from prefect import task

from trimtab.tasks.home import Home
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.seal import write_page
from trimtab.tasks.reporting.study_page import study_page


@task(name="study-report")
def study_report_task(home: str, table: Reference, command: str | None = None) -> str:
    """command: to reproduce it. Write `reports/<name>@<version>.html`; one that is there already stays."""
    place = Home.at(home)
    path = place.reports / f"{table.ref}.html"
    if not (table.reused and path.exists()):
        write_page(study_page(place.catalog.get(table.ref).header, table.ref, command), path)
    return str(path)
