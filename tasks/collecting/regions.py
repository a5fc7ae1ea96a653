"""A capture by several workers: `plan_task` lays the store out, `regions_task` collects a share of its regions on any
worker, `finish_task` publishes the result.

A share is a list of region numbers. Each region is written in a commit of its own, so workers do not wait for each
other. The regions that a killed worker has not committed stay pending and are collected when its task runs again.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from prefect import task

from trimtab.store import ActivationStore, Location
from trimtab.tasks.collecting.capture import collection_at, collection_of, publish_capture, published
from trimtab.tasks.collecting.filling import Collection, fill
from trimtab.tasks.collecting.reuse import copy_known
from trimtab.tasks.home import Home
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


@task(name="collect regions", retries=2, retry_delay_seconds=1)
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
