"""Searching the catalog: what an expression finds, and that nothing in it is executed."""

import json

import pytest

from tests.registry.conftest import publish
from trimtab.flows.cli import main
from trimtab.store import Catalog
from trimtab.store.catalog.search import Searchable, search
from trimtab.store.errors import Invalid
from trimtab.tasks.home import Home


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return Home.at(tmp_path_factory.mktemp("search") / "home")


@pytest.fixture(scope="module")
def catalog(home) -> Catalog:
    for effect, kl, beats in ((0.6, 0.1, True), (0.9, 0.4, True), (0.2, 0.05, False)):
        publish(home, effect=effect, kl=kl, beats=beats)
    home.catalog.promote("warm@2", "prod")
    home.catalog.remark("warm@1", "tag", "reviewed")
    return home.catalog


@pytest.mark.parametrize(
    "where, sort, versions",
    [
        ("beats_random and kl < 0.3", "", [1]),
        ("effect > 0.1", "-effect", [2, 1, 3]),
        ("effect.low >= 0.54", "effect.low", [1, 2]),
        ("not beats_random or 'prod' in alias", "", [2, 3]),
        ("'reviewed' in tag", "", [1]),
        ("0.05 <= kl <= 0.1 and model == 'smollm2'", "-version", [3, 1]),
        ("version in [1, 3] and name not in ('cold', 'x')", "", [1, 3]),
    ],
)
def test_what_is_found(catalog, where, sort, versions):
    assert [artifact.version for artifact in catalog.search(where, sort, kind="plan")] == versions


@pytest.mark.parametrize(
    "where, message",
    [
        ("efect > 1", "did you mean effect"),
        ("__import__('os').system('touch /tmp/x')", "cannot be in a search"),
        ("(lambda: 1)()", "cannot be in a search"),
        ("[x for x in ()]", "cannot be in a search"),
        ("effect.__class__", "cannot be in a search"),
        ("kind.low.high", "cannot be in a search"),
        ("effect ** 99999999", "cannot be in a search"),
        ("f'{effect}'", "cannot be in a search"),
        ("(x := 3)", "cannot be in a search"),
        ("effect is 3", "cannot be in a search"),
        ("effect > ", "is no search"),
        ("effect = 3", "is no search"),
        ("a" * 3000, "at most 2000"),
        ("(" * 1500, "is no search"),
        ("\0", "is no search"),
        ("kind < 3", "cannot be compared"),
    ],
)
def test_what_is_no_search_is_one_line(catalog, where, message):
    with pytest.raises(Invalid, match=message) as caught:
        catalog.search(where)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sort", ["efect", "-", "effect > 1", "1", "--effect"])
def test_what_is_no_order_is_refused(catalog, sort):
    with pytest.raises(Invalid):
        catalog.search(sort=sort)


def test_versions_without_the_field_come_last(catalog):
    assert [artifact.kind for artifact in catalog.search(sort="-effect")] == ["plan"] * 3 + ["verdict"] * 3


def test_the_command_finds_every_version(catalog, home, capsys):
    assert main(["--home", home.url, "ls", "--where", "beats_random", "--sort", "-effect", "--json"]) == 0
    assert [row["ref"] for row in json.loads(capsys.readouterr().out)] == ["warm@2", "warm@1"]
    assert main(["--home", home.url, "ls", "--where", "efect > 1"]) == 2
    assert "did you mean effect" in capsys.readouterr().err


def test_a_field_that_a_version_lacks_makes_every_comparison_false():
    candidates = [Searchable(None, {"effect": value}) for value in (1.0, None)]  # type: ignore[arg-type]
    for where, count in (("effect != 2", 1), ("not effect == 2", 2), ("effect", 1)):
        assert len(search(candidates, where)) == count, where
