"""kill -9 at random moments of a collection: how many stores are corrupt, and how many digests differ after resuming.

    python benchmarks/kills.py [--kills 100] [--pairs 150]

A tiny random model, collected by a process that is killed at a moment drawn uniformly from the time that a whole
collection takes, and started again until it is done; then the next collection begins. After every kill the store must
open, and every committed region must hold the rows of the uninterrupted store. Finished ones must have its digest.
"""

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import tiny

from trimtab.store import ActivationStore, Location, StoreError
from trimtab.store.captures import schema
from trimtab.store.verify import verify_capture
from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import load_recipe

REGION_BYTES = 2**20
CHUNK_BYTES = 2**14


@dataclass
class Count:
    """What was seen. early: kills before the store existed. torn: committed regions with other rows."""

    kills: int = 0
    early: int = 0
    partial: int = 0
    corrupt: int = 0
    torn: int = 0
    finished: int = 0
    differing: int = 0
    unverified: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 and resume")
    parser.add_argument("--kills", type=int, default=100, help="how many (100)")
    parser.add_argument("--pairs", type=int, default=150, help="pairs of the data file (150)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        recipe = tiny.make(Path(name), args.pairs)
        print(report(run(recipe, Path(name), args.kills, Random(args.seed))))


def run(recipe: Path, folder: Path, kills: int, moments: Random) -> Count:
    """Collections, killed and resumed, until there were this many kills and the last one is done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trimtab.tasks.collecting.capture", "tiny"])
    spent(context, recipe, folder / "warm", None)  # starts the server from which all others are forked
    began = time.monotonic()
    spent(context, recipe, folder / "whole", None)
    length = time.monotonic() - began
    print(f"one collection takes {length:.1f} s")
    whole = store_in(folder / "whole")
    assert whole is not None
    count, number = Count(), 0
    while count.kills < kills:
        number += 1
        one(context, recipe, folder / f"home{number}", (count, whole, lambda: moments.uniform(0, length), kills))
    return count


def one(context, recipe: Path, home: Path, how) -> None:
    """One collection, killed until it is finished or there were enough kills; then finished and checked."""
    count, whole, moment, kills = how
    while count.kills < kills:
        if not spent(context, recipe, home, moment()):
            break  # it was done before the moment came
        count.kills += 1
        look(home, whole, count)
    spent(context, recipe, home, None)
    store = store_in(home)
    count.finished += 1
    count.differing += store is None or store.digest != whole.digest
    count.unverified += store is None or not all(finding.ok for finding in verify_capture(store.location))


def spent(context, recipe: Path, home: Path, seconds: float | None) -> bool:
    """Collect in a process of its own; True when it was killed after these seconds, False when it ended before."""
    job = context.Process(target=collect, args=(recipe, home))
    job.start()
    job.join(seconds)
    killed = job.exitcode is None
    job.kill()
    job.join()
    if not killed and job.exitcode != 0:
        raise SystemExit(f"the collection failed with exit code {job.exitcode}")
    return killed


def collect(recipe: Path, home: Path) -> None:
    schema.SMALLEST_CHUNK_BYTES = CHUNK_BYTES
    capture_recipe(load_recipe(recipe), Home.at(home), REGION_BYTES)


def store_in(home: Path) -> ActivationStore | None:
    """The capture in a home, or None while there is none."""
    places = [Location.parse(path) for path in sorted((home / "captures").glob("[!.]*"))]
    found = [place for place in places if place.exists()]
    return ActivationStore.open(found[0]) if found else None


def look(home: Path, whole: ActivationStore, count: Count) -> None:
    """What a kill left: nothing yet, or a store whose committed rows are those of the uninterrupted one."""
    try:
        store = store_in(home)
    except StoreError as error:
        template_missing = "holds no capture" in str(error)
        count.early += template_missing
        count.corrupt += not template_missing
        return
    if store is None:
        count.early += 1
        return
    pending = {region.number for region in store.pending_regions()}
    written = [region for region in store.layout.regions if region.number not in pending]
    count.partial += bool(pending) and bool(written)
    for region in written:
        for site in store.sites:
            here = (site, region.row_start, region.row_stop)
            count.torn += not np.array_equal(store.stored_rows(*here), whole.stored_rows(*here))


def report(count: Count) -> str:
    return (
        f"{count.kills} kills in {count.finished} collections; {count.early} before anything was written, "
        f"{count.partial} with some regions committed\n"
        f"corrupt stores: {count.corrupt}; committed rows that differ: {count.torn}\n"
        f"finished after resuming: {count.finished}, with another digest: {count.differing}, "
        f"not verified: {count.unverified}"
    )


if __name__ == "__main__":
    main()
