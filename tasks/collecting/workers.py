"""A capture by several workers: `plan_task` lays the store out, `regions_task` collects a share of its regions on any
worker, `outcome` sums the shares, `finish_task` publishes the result. `runner_of` says where workers run.

A share is a list of region numbers. Each region is written in a commit of its own, so workers do not wait for each
other. The regions that a killed worker has not committed stay pending and are collected when its task runs again.
"""

import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from prefect import task
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from trimtab.steering.errors import SteeringError
from trimtab.store import ActivationStore, Location
from trimtab.store.errors import StoreError
from trimtab.tasks.collecting.capture import collection_at, collection_of, publish_capture, published
from trimtab.tasks.collecting.filling import Collection, fill
from trimtab.tasks.collecting.reuse import copy_known
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.jobs.processes import end_with_parent
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.kinds import Collectable
from trimtab.tasks.references import CaptureReference

TASKS_PER_WORKER = 4  # several small shares per worker, so that no worker is idle for long at the end
MOST = 16  # regions in a share. Each commits alone, so a killed worker loses only the one that it was filling
_OPEN = threading.Lock()
_opened: dict[tuple[str, str], Collection] = {}


@dataclass(frozen=True)
class CapturePlan:
    """A capture whose store is laid out. url: of the store. threads: number of torch threads that every worker must
    use, because the last bit of an activation depends on it. tokens: number of tokens of all texts. ready: the
    published capture when it exists already; the other fields are then empty."""

    url: str = ""
    threads: int = 0
    tokens: int = 0
    ready: CaptureReference | None = None


@task(name="plan capture")
def plan_task(recipe: Collectable, home: str, region_bytes: int | None = None) -> CapturePlan:
    """Create the capture's store with all regions pending, and copy what earlier captures hold of them. Raises as
    `capture_recipe` does."""
    place = Home.at(home)
    ready = published(recipe, place)
    if ready is not None:
        return CapturePlan(ready=ready)
    work = collection_of(recipe, place, region_bytes)
    copy_known(work, place)
    return CapturePlan(work.store.location.url, int(work.store.capture.fields["threads"]), work.texts.tokens)


@task(name="collect regions", retries=2, retry_delay_seconds=1, tags=["trimtab", "gpu"])
def regions_task(recipe: Collectable, home: str, plan: CapturePlan, numbers: Sequence[int]) -> int:
    """Collect the regions with these numbers; returns how many tokens ran through the model. Regions that are in the
    store already, for example from a killed attempt, are skipped."""
    torch.set_num_threads(plan.threads)
    work = _work_of(recipe, Home.at(home), plan.url)
    pending = [region for region in work.store.pending_regions() if region.number in set(numbers)]
    return fill(work, pending).computed


@task(name="finish capture")
def finish_task(recipe: Collectable, home: str, plan: CapturePlan, computed: int) -> CaptureReference:
    """Mark the store as complete and publish the capture. Raises StoreError when regions are missing."""
    store = ActivationStore.open(plan.url).finish()
    return publish_capture(recipe, Home.at(home), store, (computed, plan.tokens))


def shares_of(plan: CapturePlan, workers: int) -> list[list[int]]:
    """The numbers of all pending regions, divided into shares for this many workers."""
    pending = [region.number for region in ActivationStore.open(Location.parse(plan.url)).pending_regions()]
    size = min(MOST, max(1, -(-len(pending) // (TASKS_PER_WORKER * workers))))
    return [pending[start : start + size] for start in range(0, len(pending), size)]


def _work_of(recipe: Collectable, home: Home, url: str) -> Collection:
    """The recipe's model, texts and store; loaded once per process, as a worker collects many shares of one capture."""
    key = (recipe.stage("capture"), url)
    with _OPEN:
        if key not in _opened:
            _opened.clear()
            _opened[key] = collection_at(recipe, home, url)
        return _opened[key]


STAGE = "capturing activations, in shares"


def outcome(futures: Sequence[Any]) -> tuple[int, Exception | None]:
    """The sum of what the shares returned, and the first failure of a worker (killed, or not reachable).

    Raises a share's own error when it would occur again on every attempt (a value that the dtype cannot hold, a full
    disk).
    """
    total, lost = 0, None
    for number, future in enumerate(futures):
        report(STAGE, number, len(futures))
        try:
            total += future.result()
        except (RecipeError, SteeringError, StoreError):
            raise
        except Exception as error:
            lost = lost or error
    report(STAGE, len(futures), len(futures))
    return total, lost


RUNNERS = ("threads", "processes", "dask", "ray")
DASK_ADDRESS, RAY_ADDRESS = "TRIMTAB_DASK_ADDRESS", "TRIMTAB_RAY_ADDRESS"


def runner_of(name: str, workers: int) -> TaskRunner:
    """A Prefect task runner with this many workers.

    dask, ray: a cluster on this machine, or the one whose address stands in TRIMTAB_DASK_ADDRESS or
    TRIMTAB_RAY_ADDRESS. Raises RecipeError for an unknown name, or when the extra is not installed.
    """
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=workers)
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=workers, initializer=end_with_parent)
    if name == "dask":
        return _imported("prefect_dask", "DaskTaskRunner", "dask")(**_dask(workers))
    if name == "ray":
        return _imported("prefect_ray", "RayTaskRunner", "ray")(**_ray(workers))
    raise RecipeError(f"runner '{name}': use one of {', '.join(RUNNERS)}")


def _dask(workers: int) -> Mapping[str, Any]:
    address = os.environ.get(DASK_ADDRESS)
    if address:
        return {"address": address}
    return {"cluster_kwargs": {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}}


def _ray(workers: int) -> Mapping[str, Any]:
    address = os.environ.get(RAY_ADDRESS)
    return {"address": address} if address else {"init_kwargs": {"num_cpus": workers, "include_dashboard": False}}


def _imported(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise RecipeError(
            f"runner '{extra}': {error}; install it with `pip install 'trimtab[{extra}]'`, or use another of "
            f"{', '.join(RUNNERS)}"
        ) from None
