"""A catalog as a static site: one folder of pages that any web server or bucket serves. It asks nothing of anybody."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.steering.whole import written_whole
from trimtab.store import Artifact
from trimtab.store.catalog.lineage import lineage
from trimtab.store.catalog.view import View
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.reporting.seal import sealed_pages, write_page
from trimtab.tasks.reporting.site_pages import NamePage, index_page, name_page

MARK = "trimtab-site.json"


@dataclass(frozen=True)
class CatalogSite:
    """A site that was written. folder: where. names, versions, reports: how many of each."""

    folder: str
    names: int
    versions: int
    reports: int


def write_site(home: Home, folder: Path, title: str = "Catalog") -> CatalogSite:
    """Write every page into a folder; a site that is there is replaced as a whole, once the new one is complete.

    Raises RecipeError when the folder holds something else than a site, or nothing is published.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise RecipeError(f"{folder} holds other things than a site of trimtab; name a new or empty folder")
    pages, files = list(_pages(home)), _reports(home)
    if not pages:
        raise RecipeError(f"nothing is published in {home.url} yet, so there is nothing to show")
    site = CatalogSite(str(folder), len(pages), sum(len(page.versions) for page in pages), len(files))
    with written_whole(folder) as part:
        write_page(index_page(pages, title), part / "index.html")
        for page in pages:
            write_page(name_page(page), part / "names" / f"{page.name}.html")
        for file in files:
            (part / "reports").mkdir(exist_ok=True)
            shutil.copyfile(file, part / "reports" / file.name)
        (part / MARK).write_text(json.dumps({"title": title, "names": [page.name for page in pages]}, indent=2))
        if folder.exists():
            shutil.rmtree(folder)
    return site


def _reports(home: Home) -> list[Path]:
    """The reports of this home that are what was written, those from before seals included."""
    damaged = {path for path, whole in sealed_pages(home.reports) if not whole}
    return [path for path in sorted(home.reports.glob("[!.]*.html")) if path not in damaged]


def _pages(home: Home) -> Iterator[NamePage]:
    view = home.catalog.view()
    inventory = view.inventory()
    children = _children(inventory.artifacts)
    files = [path.name for path in _reports(home)]
    for name in sorted({artifact.name for artifact in inventory.artifacts}):
        versions = sorted((one for one in inventory.artifacts if one.name == name), key=lambda one: one.version)
        yield _page(home, view, versions, (children, files))


def _page(
    home: Home, view: View, versions: Sequence[Artifact], around: tuple[Mapping[str, list[str]], Sequence[str]]
) -> NamePage:
    """around: what was made from each version, and the names of all reports."""
    children, files = around
    name, remarks = versions[-1].name, view.remarks(versions[-1].name)
    history = view.history(name)
    return NamePage(
        name=name,
        versions=versions,
        profiles=[remarks.about(one.version) for one in versions],
        aliases=history.aliases,
        moves=history.sound,
        lineage=lineage(home.catalog, versions[-1].ref),
        children={one.version: children.get(one.ref, []) for one in versions},
        reports={one.version: [file for file in files if file in _file_names(one.ref)] for one in versions},
    )


def _file_names(ref: str) -> tuple[str, str]:
    return f"{ref}.html", f"{ref}.features.html"


def _children(artifacts: Sequence[Artifact]) -> dict[str, list[str]]:
    """ref -> references of the versions that were made from it."""
    children: dict[str, list[str]] = {}
    for artifact in artifacts:
        for ref in dict.fromkeys(parent.ref for parent in artifact.parents):
            children.setdefault(ref, []).append(artifact.ref)
    return children
