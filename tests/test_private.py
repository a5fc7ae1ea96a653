"""No telemetry, no device id, no pickle: also for flows that are called from Python in a terminal. That no host is
looked up is watched in every test (`tests/lookups`)."""

import json
import os
import pty
import subprocess
import sys

import pytest
from prefect.settings import get_current_settings

from trimtab.flows.produce import fit
from trimtab.tasks import PRIVATE
from trimtab.tasks.errors import RecipeError

IN_PYTHON = """
from trimtab.flows.job import job
@job("mine", "mine")
def mine():
    pass
"""


def test_a_flow_in_a_terminal_leaves_no_device_id_and_no_notice(tmp_path):
    known = {name: value for name, value in os.environ.items() if name not in PRIVATE and not name.startswith("CI")}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", IN_PYTHON]
    done = subprocess.run(
        command, env={**known, "PREFECT_HOME": str(tmp_path)}, stdout=theirs, stderr=theirs, timeout=120
    )
    os.write(theirs, b"end")
    assert done.returncode == 0
    assert os.read(ours, 10_000) == b"end", "nothing else was said"
    assert not list(tmp_path.rglob("device_id"))


@pytest.mark.prefect
def test_a_failed_flow_leaves_no_pickle():
    storage = get_current_settings().results.local_storage_path
    before = set(storage.rglob("*"))
    with pytest.raises(RecipeError, match="no such file"):
        fit("/nowhere.yaml")
    left = [json.loads(path.read_text()) for path in set(storage.rglob("*")) - before if path.is_file()]
    assert "__exc_type__" in str(left), "Prefect stores the exceptions of failed flows: as JSON, all through"
    assert "pickle" not in str(left)
