"""Of every test: the environment, no host that is looked up, no waiting for the disk. Models and the Prefect backend
are plugins beside this file."""

import gc
import os
import runpy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_LOOKUPS = Path(tempfile.mkstemp(prefix="lookups")[1])
_GUARD = Path(__file__).parent / "lookups"
os.environ["TRIMTAB_TEST_LOOKUPS"] = str(_LOOKUPS)  # one file for this process and all that it starts
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_GUARD), os.environ.get("PYTHONPATH")]))
runpy.run_path(str(_GUARD / "sitecustomize.py"))

for _name, _value in {
    "OMP_NUM_THREADS": "1",  # here and in every process that a test starts: more threads of tiny matrices only wait
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)  # before prefect and transformers are imported


def pytest_configure(config: pytest.Config) -> None:
    """The process that only hands out tests (`-n 2`) needs no models, and is spared their libraries."""
    if not config.getoption("numprocesses", None):
        gc.disable()  # until the tests begin: what is imported stays, and looking through it for garbage takes seconds
        for plugin in ("prefect_server", "tiny_models"):
            config.pluginmanager.import_plugin(plugin)


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True)
def _needs_prefect(request) -> None:
    if request.node.get_closest_marker("prefect"):
        request.getfixturevalue("prefect_backend")


@pytest.fixture(scope="session", autouse=True)
def wait_for_the_disk() -> Iterator[Callable[[int], None]]:
    """The system's `fsync`. Tests do not wait for it, since their files need not survive a power cut."""
    fsync = os.fsync
    os.fsync = lambda handle: None
    yield fsync
    os.fsync = fsync


@pytest.fixture(autouse=True)
def _no_host_is_looked_up() -> Iterator[None]:
    """Whatever a test runs, here or in a process of its own: nobody outside this machine is asked for anything."""
    yield
    looked_up = _LOOKUPS.read_text()
    _LOOKUPS.write_text("")
    assert not looked_up, looked_up
