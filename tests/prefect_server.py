"""A Prefect backend. A plugin of `tests/conftest.py`."""

import trimtab.tasks  # noqa: F401, I001  (before prefect: no telemetry)
from collections.abc import Iterator

import pytest
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_backend(tmp_path_factory) -> Iterator[None]:
    """One temporary Prefect server for the session. The heartbeat costs a second per flow run, so it is off."""
    home = tmp_path_factory.mktemp("prefect")
    settings = {
        PREFECT_HOME: home,
        PREFECT_LOCAL_STORAGE_PATH: home / "storage",
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
    }
    with temporary_settings(settings), prefect_test_harness(server_startup_timeout=120):
        yield
