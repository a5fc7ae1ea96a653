"""A recipe on a schedule: deployed on a live local Prefect server, run by a worker, published."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.conftest import beside_this_server, inside
from trimtab.store import Catalog

pytestmark = [pytest.mark.slow]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory, prefect_backend) -> dict[str, str]:
    """The environment in which commands reach the session's server."""
    return {**beside_this_server(tmp_path_factory.mktemp("server")), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def wait(ready, seconds: float) -> None:
    """Until it is, or an error that says what it was last."""
    until, last = time.monotonic() + seconds, ""
    while time.monotonic() < until:
        try:
            if ready():
                return
        except OSError as error:
            last = str(error)
        time.sleep(1)
    raise AssertionError(f"not ready after {seconds} s: {last}")


def stop(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def ask(url: str, body: dict | None = None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read() or "null")


def scheduled(api: str, deployment: str) -> int:
    """How many runs the server makes of a schedule, as its scheduler does on its own from time to time."""
    wait(lambda: ask(f"{api}/deployments/{deployment}/schedule", {"min_runs": 3}) is None, 30)  # 503: it is busy
    runs = ask(f"{api}/flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}})
    return sum(run["state_type"] == "SCHEDULED" for run in runs)


def test_a_deployed_recipe_is_run_by_a_worker(server, tiny_recipe, tmp_path):
    home, api = tmp_path / "home", server["PREFECT_API_URL"]
    done = inside("deploy", str(tiny_recipe), "--cron", "0 3 * * *", "--json", home=home)
    assert done.code == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["name"] == "produce/tiny" and made["cron"] == "0 3 * * *"
    known = ask(f"{api}/deployments/name/{made['name']}")
    assert [s["schedule"]["cron"] for s in known["schedules"]] == ["0 3 * * *"]
    assert scheduled(api, known["id"]) >= 3, "the server makes runs of the schedule"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    worker = subprocess.Popen(
        [str(BIN / "trimtab"), "worker"], env=server, cwd=tmp_path, start_new_session=True, **quiet
    )
    try:
        run = ask(f"{api}/deployments/{known['id']}/create_flow_run", {})
        wait(lambda: ask(f"{api}/flow_runs/{run['id']}")["state_type"] in ("COMPLETED", "FAILED", "CRASHED"), 420)
    finally:
        stop(worker)
    assert ask(f"{api}/flow_runs/{run['id']}")["state_type"] == "COMPLETED"
    assert "tiny" in Catalog(home / "catalog").names()
