"""One process, threads, processes, Dask, Ray: the same rows. A worker that is killed costs only its region in hand."""

import multiprocessing
import threading
import time

import pytest
from prefect import flow

from trimtab.flows.collect import collect_shares
from trimtab.store import ActivationStore, Location
from trimtab.store.errors import Mismatch, StoreError
from trimtab.tasks.collecting import workers
from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.collecting.workers import CapturePlan, finish_task, outcome, plan_task, regions_task, shares_of
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import load_recipe

SMALL = 500_000


@pytest.fixture
def collected(tiny_recipe, tmp_path):
    """(recipe, the digest of its capture in one process, the number of its regions)."""
    recipe = load_recipe(tiny_recipe)
    store = ActivationStore.open(capture_recipe(recipe, Home.at(tmp_path / "alone"), SMALL).url)
    return recipe, store.digest, len(store.layout.regions)


@flow(validate_parameters=False)
def whole(recipe, home: str, runner: str, workers: int = 2, started=lambda plan: None):
    plan = plan_task(recipe, home, SMALL)
    started(plan)
    return finish_task(recipe, home, plan, collect_shares(recipe, home, plan, workers, runner))


@pytest.mark.prefect
@pytest.mark.parametrize("runner", ["threads", "dask", "ray"])
def test_every_runner_gives_the_same_digest(collected, tmp_path, runner):
    if runner != "threads":
        pytest.importorskip(f"prefect_{runner}")
    recipe, digest, _ = collected
    home = str(tmp_path / runner)
    made = whole(recipe, home, runner)
    assert ActivationStore.open(made.url).digest == digest
    assert made.computed > 0 and not made.reused
    assert plan_task.fn(recipe, home).ready.ref == made.ref


@pytest.mark.prefect
def test_a_killed_process_is_replaced_and_the_digest_is_the_same(collected, tmp_path):
    """It is killed as soon as a region is committed. One worker, since each process costs the libraries' import; that
    processes do not disturb each other's regions is a law of the store."""
    recipe, digest, regions = collected
    killed = []

    def watch(plan: CapturePlan) -> None:
        threading.Thread(target=kill_one, args=(plan.url, regions, killed), daemon=True).start()

    made = whole(recipe, str(tmp_path / "killed"), "processes", 1, watch)
    assert killed and 0 < killed[0] < regions, "no worker was killed while regions were missing"
    assert ActivationStore.open(made.url).digest == digest


def kill_one(url: str, regions: int, killed: list[int]) -> None:
    for _ in range(3000):
        pending = len(ActivationStore.open(url).pending_regions())
        workers = [child for child in multiprocessing.active_children() if "Spawn" in type(child).__name__]
        if 0 < pending < regions and workers:
            workers[0].kill()
            killed.append(pending)
            return
        time.sleep(0.01)


def test_shares_cover_what_is_missing(collected, tmp_path):
    recipe, _, regions = collected
    home = str(tmp_path / "shares")
    plan = plan_task.fn(recipe, home, SMALL)
    shares = shares_of(plan, 2)
    assert sorted(sum(shares, [])) == list(range(regions)) and len(shares) > 1
    assert regions_task.fn(recipe, home, plan, shares[0]) > 0
    assert regions_task.fn(recipe, home, plan, shares[0]) == 0, "a retried share does nothing twice"
    assert sorted(sum(shares_of(plan, 2), [])) == sorted(sum(shares[1:], []))
    with pytest.raises(StoreError, match="not written"):
        finish_task.fn(recipe, home, plan, 0)


def test_a_worker_that_sees_other_data_is_refused(collected, tmp_path, write_pairs, tiny_recipe):
    recipe, _, _ = collected
    home = str(tmp_path / "other")
    plan = plan_task.fn(recipe, home, SMALL)
    write_pairs(tiny_recipe.parent / "pairs.jsonl", 61)
    with pytest.raises(Mismatch, match="prompts: .* here, .* there"):
        regions_task.fn(load_recipe(tiny_recipe), home, plan, [0])
    assert Location.parse(plan.url).exists()


def test_what_a_share_refuses_ends_the_round_and_what_it_loses_does_not():
    class Future:
        def __init__(self, value):
            self.value = value

        def result(self):
            if isinstance(self.value, Exception):
                raise self.value
            return self.value

    gone = ConnectionError("worker gone")
    assert outcome([Future(2), Future(gone), Future(3)]) == (5, gone)
    with pytest.raises(Mismatch):
        outcome([Future(gone), Future(Mismatch("other rows"))])


def test_runners_that_cannot_be_had(monkeypatch):
    with pytest.raises(RecipeError, match="use one of threads, processes, dask, ray"):
        workers.runner_of("slurm", 2)
    monkeypatch.setattr(workers.importlib, "import_module", _missing)
    with pytest.raises(RecipeError, match=r"pip install 'trimtab\[ray\]'"):
        workers.runner_of("ray", 2)


def _missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}")
