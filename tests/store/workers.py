"""What the tests' other processes do. Run by path with JOB = (name, *arguments); see the fixture `worker`."""

import pickle
import random
import runpy
import sys
import types
from pathlib import Path

import numpy as np

from trimtab.store import ActivationStore, Catalog
from trimtab.store.errors import Conflict, NotFound

JOB: tuple = globals().get("JOB", ())


def make_sample(seed: int = 0, prompts: int = 40) -> object:
    name = "store_tests_conftest"
    sys.modules[name] = types.ModuleType(name)  # dataclasses look their module up
    home = Path(globals()["__file__"]).parent
    return runpy.run_path(str(home / "conftest.py"), run_name=name)["make_sample"](seed, prompts)


def fork(path: Path, numbers: list[int]) -> None:
    """Write regions through a pickled fork, and pickle it back."""
    handle, sample = pickle.loads(path.read_bytes()), make_sample()
    regions = sample.create("memory://regions").layout.regions
    for number in numbers:
        with handle.region_writer(regions[number]) as writer:
            sample.fill(writer, regions[number])
    path.write_bytes(pickle.dumps(handle))


def alone(place: Path, numbers: list[int]) -> None:
    """Write and commit regions while others do the same."""
    store, sample = ActivationStore.open(place), make_sample()
    for number in numbers:
        with store.region_writer(store.layout.regions[number]) as writer:
            sample.fill(writer, store.layout.regions[number])


def collect(place: Path, which: tuple[int, int]) -> None:
    """A whole collection, or what is left of it."""
    make_sample(*which).collect(place)


def publish(place: Path, who: int) -> None:
    """Ten versions of one name, each with something of its own."""
    catalog = Catalog(place)
    for i in range(10):
        catalog.publish("shared", "plan", {"x": np.array([who, i])}, {"who": who, "i": i}, key=f"{who}.{i}")
        catalog.promote("shared", f"a{who}")


def deeds(folder: Path, who: int) -> None:
    """Twenty deeds at random; what was acknowledged goes to a log."""
    catalog, chance = Catalog(folder / "catalog"), random.Random(who)
    with open(folder / f"log{who}", "w", buffering=1) as log:
        for i in range(20):
            try:
                refs = [artifact.ref for artifact in catalog.list()]
                match chance.choice(("publish", "publish", "promote", "delete")) if refs else "publish":
                    case "publish":
                        parents = chance.sample(refs, min(len(refs), 1))
                        made = catalog.publish(chance.choice("ab"), "plan", {}, {"i": [who, i]}, parents)
                        print("published", made.ref, file=log)
                    case "promote":
                        catalog.promote(chance.choice(refs), f"a{chance.randrange(2)}")
                    case "delete":
                        print("deleted", catalog.delete(chance.choice(refs)).ref, file=log)
            except (Conflict, NotFound):
                continue


if JOB:
    globals()[JOB[0]](*JOB[1:])
