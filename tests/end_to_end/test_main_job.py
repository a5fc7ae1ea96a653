"""The main job through the command line, as a user runs it: on a tiny model in a folder, quickly."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from reports import command_in

from tests.end_to_end.conftest import beside_this_server, environment, inside
from trimtab.steering import SteeringPlan
from trimtab.steering.fitters.mean_difference import MeanDifference
from trimtab.store import ActivationStore, Catalog, StoreError
from trimtab.store.verify import verify
from trimtab.tasks.home import Home
from trimtab.tasks.plans.fit import contrast_of
from trimtab.tasks.recipes.kinds import load_recipe

pytestmark = [pytest.mark.slow]


def read(*arguments: str, home: Path):
    """The JSON of a reading command."""
    done = inside(*arguments, "--json", home=home)
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def test_everything_is_published_with_its_lineage(tiny_home):
    catalog = Catalog(tiny_home / "catalog")
    assert set(catalog.names()) >= {"tiny", "tiny.capture", "tiny.mean_difference", "tiny.verdict"}  # others use it too
    tree = inside("lineage", "tiny@1", home=tiny_home).stdout
    for name in ("tiny@1", "tiny.verdict@1", "tiny.mean_difference@1", "tiny.capture@1"):
        assert name in tree
    assert all(finding.ok for finding in verify(catalog))
    assert (tiny_home / "reports" / "tiny@1.html").stat().st_size > 10_000


def test_the_capture_holds_residual_and_head_activations_of_every_block(tiny_home):
    store = Home.at(tiny_home).rows("tiny.capture")
    assert store.complete
    assert set(store.sites) == {f"{point}.{block}" for point in ("resid_post", "z") for block in range(4)}
    assert store.rows("z.2").shape[1:] == (4, 12)
    assert store.to_xarray()["resid_post.1"].dims == ("row", "d_model")


def test_the_candidates_are_what_a_fit_of_all_sites_gives(tiny_recipe, tiny_home):
    """They were fitted site by site, with one site's rows in memory."""
    catalog = Catalog(tiny_home / "catalog")
    store = Home.at(tiny_home).rows("tiny.capture")
    recipe, artifact = load_recipe(tiny_recipe), catalog.get("tiny.mean_difference")
    whole = MeanDifference().fit(contrast_of(store, recipe, "fit"))
    plan = SteeringPlan.unpack(artifact)
    assert [step.site for step in plan.interventions] == [step.site for step in whole.interventions]
    for ours, theirs in zip(plan.interventions, whole.interventions, strict=True):
        assert torch.equal(ours.move.vector, theirs.move.vector)


@pytest.mark.prefect
def test_a_second_run_computes_nothing_and_says_so(tiny_recipe, tiny_home):
    before = Catalog(tiny_home / "catalog").list()
    done = inside("run", str(tiny_recipe), home=tiny_home)
    assert done.code == 0, done.stderr
    assert "nothing to compute" in done.stdout
    assert [a.ref for a in Catalog(tiny_home / "catalog").list()] == [a.ref for a in before]


@pytest.mark.prefect
def test_another_budget_reuses_activations_and_vectors(tiny_recipe, tiny_home):
    published = len(Catalog(tiny_home / "catalog").versions("tiny"))
    made = read("run", str(tiny_recipe), "--set", "budget.kl=0.1", home=tiny_home)
    assert made["capture"]["reused"] and all(c["reused"] for c in made["candidates"])
    assert not made["verdict"]["reused"] and made["plan"]["ref"] == f"tiny@{published + 1}"
    again = command_in(made["report"])
    assert again[2:] == ["run", str(tiny_recipe), "--set", "budget.kl=0.1"]
    code, out = inside(*again[2:], "--json", home=Path(again[1])).code, read(*again[2:], home=Path(again[1]))
    assert code == 0 and out["reused"], "the command of the report gives what the report shows"


def test_where_a_recipe_lies_is_no_part_of_what_it_asks(tiny_recipe, tmp_path):
    """Moved to another folder: the same keys, so nothing is computed again; and the path that was typed is in no
    published record."""
    for file in tiny_recipe.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    here, there = load_recipe(tiny_recipe), load_recipe(tmp_path / tiny_recipe.name)
    assert [here.stage(s) for s in ("capture", "fit", "validate")] == [
        there.stage(s) for s in ("capture", "fit", "validate")
    ]
    assert here.digest == there.digest and "recipe.yaml" not in json.dumps(here.to_json())


def test_reading_commands_answer_people_and_scripts(tiny_home):
    assert {row["name"] for row in read("ls", home=tiny_home)} >= {"tiny", "tiny.capture"}
    shown = read("show", "tiny@1", home=tiny_home)
    assert shown["metrics"]["kl_asked"] == 0.2
    assert inside("promote", "tiny@1", "prod", home=tiny_home).code == 0
    assert read("show", "tiny@prod", home=tiny_home)["digest"] == shown["digest"]
    assert read("captures", home=tiny_home)[0]["rows"] > 0
    for command in ("ls", "captures", "verify", "methods"):
        assert inside(command, home=tiny_home).code == 0
    assert shown["metrics"]["kl_sampling"] == "temperature 1"
    governed = ("--tokens", "5", "--govern", "0.05", "--temperature", "0.3", "--strength", "4")
    steered = read("steer", "tiny@1", "Good morning", *governed, home=tiny_home)
    assert steered["kl_temperature"] == 0.3 and 0 < steered["answers"][0]["kl"] <= 0.05
    said = inside("steer", "tiny@1", "Good morning", *governed, home=tiny_home)
    assert "nats at temperature 0.3, at most 0.05 a token, of the distribution that is sampled from" in said.stderr


def begun(home: Path) -> list[ActivationStore]:
    """The captures whose template is committed: readable from then on, whatever happens to the writer."""
    found = []
    for place in home.glob("captures/[!.]*"):
        with contextlib.suppress(StoreError):
            found.append(ActivationStore.open(place))
    return found


@pytest.mark.prefect
@pytest.mark.parametrize("stop, given", [(signal.SIGKILL, environment), (signal.SIGINT, beside_this_server)])
def test_a_stopped_collection_stays_readable_and_resumes_to_the_same_rows(
    tiny_recipe, tiny_home, tmp_path, stop, given
):
    """With a Prefect server that the command starts for itself, and with one that is there already."""
    home = tmp_path / "home"
    command = [str(Path(sys.executable).parent / "trimtab"), "--home", str(home), "collect", str(tiny_recipe)]
    started = subprocess.Popen(command, env=given(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not begun(home):
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):  # a quick machine may have finished: the rows must be the same
        os.killpg(started.pid, stop)  # with the Prefect server it started, which would outlive it
    started.wait(60)
    assert [store.n_rows > 0 for store in begun(home)] == [True]
    again = inside("collect", str(tiny_recipe), home=home)
    assert again.code == 0, again.stderr
    first, second = (Home.at(place).rows("tiny.capture").digest for place in (home, tiny_home))
    assert first == second
