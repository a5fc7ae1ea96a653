"""A stage is found by its key or computed and published; one catalog serves a home in a process."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from trimtab.store import Catalog
from trimtab.store.catalog import nodes
from trimtab.store.errors import NotFound
from trimtab.tasks.home import Home
from trimtab.tasks.step import SECONDS, Product, Step, seconds_of

ELSEWHERE = """
import sys
import numpy as np
from trimtab.store import Catalog
Catalog(sys.argv[1]).publish("demo", "plan", {"v": np.arange(4.0)}, {"by": "another process"}, key="elsewhere")
"""


def product(value: float = 1.0) -> Product:
    return Product({"v": np.full(3, value)}, {"kind": "demo"}, {"effect": value})


def test_a_step_is_computed_once_and_publishes_what_it_computed(tmp_path):
    home, calls = Home.at(tmp_path), []

    def compute() -> Product:
        calls.append(1)
        return product()

    first = Step("base", "candidates", "key-1", {"name": "demo"}).find_or_publish(home, compute)
    step = Step("demo", "plan", "key-2", {"name": "demo"}, [first.ref], timed=True)
    made, again = step.find_or_publish(home, compute), step.find_or_publish(home, compute)
    assert len(calls) == 2 and not made.reused and again.reused and (again.ref, again.digest) == (made.ref, made.digest)
    artifact = Catalog(tmp_path / "catalog").get("demo")
    assert (artifact.name, artifact.kind, artifact.key, artifact.recipe) == ("demo", "plan", "key-2", {"name": "demo"})
    assert [parent.ref for parent in artifact.parents] == ["base@1"] and artifact.header == {"kind": "demo"}
    assert artifact.metrics["effect"] == 1.0 and seconds_of(artifact) == artifact.metrics[SECONDS] >= 0
    assert home.catalog.get("base").metrics == {"effect": 1.0}


def test_a_step_without_a_key_publishes_again(tmp_path):
    step = Step("demo", "plan", None, None)
    refs = [step.find_or_publish(Home.at(tmp_path), lambda value=value: product(value)).ref for value in (1.0, 2.0)]
    assert refs == ["demo@1", "demo@2"]


def test_a_home_has_one_catalog_that_sees_what_others_publish(tmp_path):
    home = Home.at(tmp_path)
    Step("demo", "plan", "here", None).publish(home, product())
    assert home.catalog.find("here") is not None
    assert Home.at(str(tmp_path)).catalog is home.catalog
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path / "catalog")], check=True, timeout=120)
    assert home.catalog.find("elsewhere").ref == "demo@2" and home.catalog.get("demo").header["by"] == "another process"
    assert home.catalog.get("demo@1").header == {"kind": "demo"}


def test_records_are_read_once(tmp_path, monkeypatch):
    home, reads = Home.at(tmp_path), []
    for value in range(3):
        Step("demo", "plan", f"key-{value}", None).publish(home, product(value))
    original = nodes.attributes_of
    assert home.catalog.find("key-0") is not None  # the catalog that made the folder was another object
    monkeypatch.setattr(nodes, "attributes_of", lambda session, paths: reads.extend(paths) or original(session, paths))
    for value in range(3):
        assert Home.at(tmp_path).catalog.find(f"key-{value}").version == value + 1
    assert [path for path in reads if path.startswith("artifacts/")] == []


def test_a_home_that_was_removed_and_made_again_is_another(tmp_path):
    folder = tmp_path / "home"
    Step("demo", "plan", "key", None).publish(Home.at(folder), product(1.0))
    shutil.rmtree(folder)
    assert Home.at(folder).catalog.find("key") is None
    with pytest.raises(NotFound):
        Home.at(folder).catalog.get("demo")
    Step("demo", "plan", "key", None).publish(Home.at(folder), product(2.0))
    assert Home.at(folder).catalog.get("demo@1").arrays["v"].tolist() == [2.0] * 3
    assert Home.at(folder).catalog.get("demo@1").metrics == {"effect": 2.0}


def test_records_of_a_catalog_made_anew_in_the_same_folder_are_not_mistaken_for_the_old(tmp_path):
    """The catalog object itself notices, whatever the folder's identity says."""
    catalog, place = Catalog(tmp_path / "catalog"), tmp_path / "catalog"
    catalog.publish("demo", "plan", {"v": np.zeros(2)}, {"made": "first"})
    other = tmp_path / "other"
    Catalog(other).publish("demo", "plan", {"v": np.ones(2)}, {"made": "second"})
    assert catalog.get("demo").header == {"made": "first"}
    shutil.rmtree(place)
    shutil.copytree(other, place)
    assert catalog.get("demo@1").header == {"made": "second"}
