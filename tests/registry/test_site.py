"""The catalog as a folder of pages."""

import re

import pytest

from tests.registry.conftest import publish
from trimtab.flows.cli import main
from trimtab.store.catalog.lineage import lineage
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.reporting.charts.lineage import draw
from trimtab.tasks.reporting.seal import sealed_pages, write_page
from trimtab.tasks.reporting.site import write_site

ATTACK = "<script>window.broken=1</script>"


@pytest.fixture
def full(home) -> Home:
    """Two names with a report each, a features browser, words that attack, aliases that moved."""
    for effect in (0.6, 0.7):
        publish(home, effect=effect)
    home.catalog.publish("parts", "features", {}, {"kind": "features"}, ["warm@1"])
    home.catalog.promote("warm@1", "prod")
    home.catalog.promote("warm@2", "prod", note=ATTACK)
    home.catalog.remark("warm", "description", ATTACK)
    home.catalog.remark("warm@1", "deprecated", "old")
    for name in ("warm@1.html", "parts@1.features.html", "unrelated.txt"):
        write_page("<p>page</p>", home.reports / name)
    return home


def test_every_link_leads_to_a_page_and_nothing_is_loaded_from_elsewhere(full, tmp_path):
    site = write_site(full, tmp_path / "site")
    assert (site.names, site.versions, site.reports) == (3, 5, 2)
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) == 1 + 3 + 2
    for page in pages:
        text = page.read_text()
        for target in re.findall(r'href="([^"#][^"]*)"', text):
            assert target == "data:," or (page.parent / target).resolve().is_file(), (page, target)
        assert not re.search(r'(src|href)="(https?:)?//', text) and ATTACK not in text.replace("\\u003c", "<!")
    warm = (tmp_path / "site/names/warm.html").read_text()
    for part in ("reports/warm@1.html", "parts@1", "@1 (deprecated)", "warm.verdict@2", "&lt;script&gt;"):
        assert part in warm, part
    assert "features browser" in (tmp_path / "site/names/parts.html").read_text()
    assert all(whole for folder in ("", "names", "reports") for _, whole in sealed_pages(tmp_path / "site" / folder))


def test_a_site_is_replaced_and_nothing_else_is(full, tmp_path):
    site = tmp_path / "site"
    write_site(full, site)
    full.catalog.publish("later", "plan", {}, {"kind": "plan"})
    assert main(["--home", full.url, "site", str(site), "--title", "Ours"]) == 0
    assert (site / "names/later.html").is_file() and "<h1>Ours</h1>" in (site / "index.html").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    with pytest.raises(RecipeError, match="other things"):
        write_site(full, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "precious"
    with pytest.raises(RecipeError, match="nothing is published"):
        write_site(Home.at(tmp_path / "empty"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_damaged_report_is_left_out(full, tmp_path):
    page = full.reports / "warm@1.html"
    page.write_text(page.read_text().replace("page</p>", "other</p>"))
    assert write_site(full, tmp_path / "site").reports == 1


def test_a_lineage_is_drawn_with_every_node_once(full):
    for _ in range(2):  # a diamond: two ways from the same ancestor
        full.catalog.publish("mix", "plan", {}, {"n": len(full.catalog.list())}, ["warm@1", "parts@1"])
    drawing = draw(lineage(full.catalog, "mix"))
    assert drawing.count("<rect") == 4 and drawing.count("<line") == 4
    places = {
        ref: float(re.search(rf"<title>{ref}.*?x=\"([\d.]+)\"", drawing)[1]) for ref in ("warm@1", "parts@1", "mix@2")
    }
    assert places["warm@1"] < places["parts@1"] < places["mix@2"]
