"""A capture in shares: plan it once, collect shares of its regions anywhere, seal and publish it once. Whoever collects
a share writes its regions through an Icechunk fork and merges that in one commit, so shares never wait for each other,
and a share that died is simply collected again."""

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

TASKS_PER_WORKER = 4  # so that a slow share does not keep the others waiting at the end
MOST = 16  # regions in a share: what a killed worker can lose of finished work is still only the region in hand
_OPEN = threading.Lock()
_opened: dict[tuple[str, str], Collection] = {}


@dataclass(frozen=True)
class CapturePlan:
    """A capture that is laid out. url: where. threads: torch threads that every worker must use, because the last bit
    of a row depends on them. tokens: of all texts. ready: the published capture, when there is nothing to do."""

    url: str = ""
    threads: int = 0
    tokens: int = 0
    ready: CaptureReference | None = None


@task(name="plan capture")
def plan_task(recipe: Collectable, home: str, region_bytes: int | None = None) -> CapturePlan:
    """Lay the capture out, so that workers find it. Raises as `capture_recipe` does."""
    place = Home.at(home)
    ready = published(recipe, place)
    if ready is not None:
        return CapturePlan(ready=ready)
    work = collection_of(recipe, place, region_bytes)
    copy_known(work, place)
    return CapturePlan(work.store.location.url, int(work.store.capture.fields["threads"]), work.texts.tokens)


@task(name="collect regions", retries=2, retry_delay_seconds=1)
def regions_task(recipe: Collectable, home: str, plan: CapturePlan, numbers: Sequence[int]) -> int:
    """Collect the regions with these numbers; returns how many tokens ran through the model. Regions that are there
    already, for example from a try that was killed, are left out."""
    torch.set_num_threads(plan.threads)
    work = _work_of(recipe, Home.at(home), plan.url)
    pending = [region for region in work.store.pending_regions() if region.number in set(numbers)]
    return fill(work, pending).computed


@task(name="finish capture")
def finish_task(recipe: Collectable, home: str, plan: CapturePlan, computed: int) -> CaptureReference:
    """Seal and publish. Raises StoreError when regions are missing."""
    store = ActivationStore.open(plan.url).finish()
    return publish_capture(recipe, Home.at(home), store, (computed, plan.tokens))


def shares_of(plan: CapturePlan, workers: int) -> list[list[int]]:
    """The numbers of the regions that are missing, in shares for this many workers."""
    pending = [region.number for region in ActivationStore.open(Location.parse(plan.url)).pending_regions()]
    size = min(MOST, max(1, -(-len(pending) // (TASKS_PER_WORKER * workers))))
    return [pending[start : start + size] for start in range(0, len(pending), size)]


def _work_of(recipe: Collectable, home: Home, url: str) -> Collection:
    """The model and texts of a recipe, once per process: a worker gets many shares of one capture."""
    key = (recipe.stage("capture"), url)
    with _OPEN:
        if key not in _opened:
            _opened.clear()
            _opened[key] = collection_at(recipe, home, url)
        return _opened[key]
