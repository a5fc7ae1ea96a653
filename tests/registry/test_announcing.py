"""Prefect is told of versions and of aliases that move, in runs alone; and prefect.yaml names what there is."""

import asyncio
import inspect
from importlib import import_module
from pathlib import Path

import httpx
import icechunk
import pytest
import yaml
from prefect import flow
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import exception_to_failed_state

from tests.registry.conftest import publish
from trimtab.store.errors import Corrupt
from trimtab.tasks import announcing
from trimtab.tasks.announcing import announce_version
from trimtab.tasks.recipes.kinds import KINDS
from trimtab.tasks.registry.gates import promote
from trimtab.tasks.step import is_transient

ROOT = Path(__file__).parents[2]


@pytest.fixture
def events(monkeypatch) -> list[tuple[str, dict, list, dict]]:
    """What is emitted: (event, resource, related, payload)."""
    emitted: list[tuple[str, dict, list, dict]] = []
    monkeypatch.setattr(announcing, "emit_event", lambda event, **rest: emitted.append((event, *rest.values())))
    return emitted


@pytest.mark.prefect
def test_a_run_shows_its_versions_and_says_when_an_alias_moves(home, events):
    @flow
    def job() -> None:
        for effect in (0.6, 0.7):
            announce_version(home, publish(home, effect=effect).ref)
        promote(home, "warm@2", "prod")

    job()
    shown = Artifact.get("trimtab-warm")
    assert shown is not None and shown.description == "warm@2" and "| effect | 0.7 [0.65, 0.75] |" in shown.data
    assert "made from `warm.verdict@2`" in shown.data and "reports/warm@2.html" in shown.data
    table = Artifact.get("trimtab-warm-versions")
    assert table is not None and '"warm@2"' in table.data and '"warm@1"' in table.data
    assert [event for event, *_ in events] == [announcing.PUBLISHED] * 2 + [announcing.PROMOTED]
    _, resource, related, payload = events[1]
    assert resource["prefect.resource.id"] == "trimtab.plan.warm" and resource["trimtab.version"] == "2"
    assert related[0]["prefect.resource.id"] == "trimtab.verdict.warm.verdict" and payload["ref"] == "warm@2"
    _, _, related, payload = events[2]
    assert related[0]["prefect.resource.id"] == "trimtab.alias.warm.prod" and payload["to"] == 2


def test_outside_of_a_run_nothing_is_told(home, events):
    with temporary_settings(restore_defaults={PREFECT_API_URL}):  # no server, as where nothing is scheduled
        announce_version(home, publish(home).ref)
        promote(home, "warm", "prod")
    assert events == []


@pytest.mark.prefect
def test_a_server_that_refuses_does_not_end_the_work(home, events, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("no server")

    monkeypatch.setattr(announcing, "create_markdown_artifact", refuse)

    @flow
    def job() -> str:
        version = publish(home)
        announce_version(home, version.ref)
        return version.ref

    assert job() == "warm@1"


@pytest.mark.parametrize(
    "error, again",
    [(ConnectionError("gone"), True), (icechunk.IcechunkError("throttled"), True), (Corrupt("x"), False)],
)
def test_only_what_may_pass_is_tried_again(error, again):

    state = asyncio.run(exception_to_failed_state(error))
    assert is_transient(None, None, state) is again


def test_every_kind_of_recipe_has_a_deployment_that_could_run():
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    for one in deployments:
        module, _, name = one["entrypoint"].rpartition(".")
        parameters = inspect.signature(getattr(import_module(module), name).fn).parameters
        assert set(one["parameters"]) <= set(parameters), one["name"]
        recipe = one["parameters"].get("recipe")
        assert recipe is None or (ROOT / recipe).is_file()
    assert {tag for one in deployments for tag in one["tags"]} >= {*KINDS, "recheck"}
