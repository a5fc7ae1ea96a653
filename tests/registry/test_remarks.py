"""What is said of names and versions changes; what was published does not."""

import json
import warnings

import pytest

from tests.registry.conftest import publish
from trimtab.flows.cli import main
from trimtab.store import Catalog
from trimtab.store.catalog import nodes
from trimtab.store.catalog.remarks import DeprecatedVersion
from trimtab.store.errors import Invalid, NotFound
from trimtab.store.verify import verify


@pytest.fixture
def catalog(home) -> Catalog:
    for _ in range(2):
        publish(home)
    return home.catalog


def test_the_last_word_counts_and_every_word_stays(catalog):
    before = [artifact.digest for artifact in catalog.list()]
    catalog.remark("warm", "description", "cheers up")
    catalog.remark("warm@2", "description", "cheers up, less")
    catalog.remark("warm", "description", "cheers people up", who="ann@host")
    assert [catalog.about(f"warm@{n}").description for n in (1, 2)] == ["cheers people up", "cheers up, less"]
    catalog.remark("warm@2", "description", "")
    assert catalog.about("warm@2").description == "", "a version's own empty text hides its name's"
    for field, text in (("tag", "reviewed"), ("tag", "team=safety"), ("untag", "reviewed"), ("note", "one")):
        catalog.remark("warm@1", field, text)
    about = catalog.about("warm@1")
    assert about.tags == ("team=safety",) and [note.text for note in about.notes] == ["one"]
    assert [artifact.digest for artifact in catalog.list()] == before and all(one.ok for one in verify(catalog))
    assert "ann@host" in {remark.who for remark in catalog.view().remarks("warm").sound}


def test_a_deprecated_version_warns_wherever_it_is_loaded(catalog, home, capsys):
    catalog.remark("warm@1", "deprecated", "wrong prompts; use warm@2")
    with pytest.warns(DeprecatedVersion, match="warm@1 is deprecated: wrong prompts; use warm@2"):
        catalog.get("warm@1")
    assert main(["--home", home.url, "promote", "warm@1", "prod"]) == 0
    assert capsys.readouterr().err.startswith("warning: warm@1 is deprecated: wrong prompts")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog.get("warm@2")
        catalog.remark("warm@1", "deprecated", "")
        catalog.get("warm@1")
    catalog.remark("warm", "deprecated", "the whole name")
    with pytest.warns(DeprecatedVersion):
        catalog.get("warm@2")


def test_what_nobody_can_say_is_refused(catalog):
    empty, long = (("tag", ""), ("note", " ")), (("tag", "x" * 81), ("use", "x" * 10_001))
    for field, text in (("colour", "red"), ("tag", "a,b"), *empty, *long):
        with pytest.raises(Invalid):
            catalog.remark("warm@1", field, text)
    assert catalog.view().remarks("warm").records == []


def test_of_what_is_not_there_nothing_is_said(catalog):
    for ref in ("cold", "warm@9", "warm@prod"):
        with pytest.raises(NotFound):
            catalog.remark(ref, "note", "hello")


def test_a_damaged_remark_is_named_and_hides_no_other(catalog):
    catalog.remark("warm@1", "tag", "good")
    session = catalog.location.repository().writable_session("main")
    nodes.add_group(session, "remarks/warm/2", {"field": "tag", "text": 7})
    session.commit("damage")
    assert catalog.about("warm@1").tags == ("good",)
    assert [finding.thing for finding in verify(catalog) if not finding.ok] == ["remarks/warm/2"]
    catalog.remark("warm@1", "tag", "better")
    assert catalog.about("warm@1").tags == ("better", "good")


def test_the_commands_say_and_show_it(catalog, home, capsys):
    def run(*argv: str, code: int = 0) -> str:
        assert main(["--home", home.url, *argv]) == code
        return capsys.readouterr().out

    run("describe", "warm", "cheers up", "--licence", "MIT")
    run("tag", "warm@2", "a", "b", "--remove", "a")
    run("note", "warm@2", "shown on Monday")
    run("deprecate", "warm@2", "old")
    text = run("show", "warm@2")
    for line in ("cheers up", "MIT", "tags         b", "shown on Monday (", "deprecated   old ("):
        assert line in text, text
    assert json.loads(run("show", "warm@1", "--json"))["about"]["deprecated"] is None
    assert "taken back" in run("deprecate", "warm@2", "--undo")
    for mistake in (("tag", "warm"), ("describe", "warm"), ("deprecate", "warm"), ("deprecate", "warm", "x", "--undo")):
        run(*mistake, code=2)
    assert "warm@1" in run("show", "warm.verdict@1"), "children stand beside parents"


def test_aliases_move_back_and_away_with_their_history(catalog, home, capsys):
    catalog.promote("warm@1", "prod")
    catalog.promote("warm@2", "prod", note="better")
    for argv, text in (
        (["rollback", "warm@prod", "--note", "no"], "warm@prod is warm@1 again (was @2)"),
        (["unalias", "warm@prod"], "warm@prod names nothing now (was @1)"),
    ):
        assert main(["--home", home.url, *argv]) == 0
        assert capsys.readouterr().out.strip() == text
    assert main(["--home", home.url, "rollback", "warm@prod"]) == 2
    assert main(["--home", home.url, "aliases", "warm@prod", "--json"]) == 0
    moves = json.loads(capsys.readouterr().out)
    assert [(move["before"], move["after"]) for move in moves] == [(None, 1), (1, 2), (2, 1), (1, None)]
    assert [move["note"] for move in moves] == ["", "better", "rolled back from @2; no", ""]
