"""A gated schedule on a real local Prefect server: deployments on a cron of one minute, a worker, the gate that decides
both ways, an automation that measures again what was promoted. Prints what happened, in order. Takes about six minutes
on two cores; nothing outside this machine is asked for anything.

    python benchmarks/gated_schedule.py [FOLDER] [--screenshots FOLDER]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tiny import make

PORT = 4297
API = f"http://127.0.0.1:{PORT}/api"
PAGES = ("runs", "artifacts/key/trimtab-tiny-gate", "artifacts/key/trimtab-tiny-versions", "automations", "events")
DONE = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Place:
    """Where everything of the demonstration lies."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def environment(self) -> dict[str, str]:
        prefect = {"PREFECT_HOME": str(self.root / "prefect"), "PREFECT_API_URL": API, "DO_NOT_TRACK": "1"}
        quick = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "10", "PREFECT_WORKER_QUERY_SECONDS": "3"}
        return {**os.environ, **prefect, **quick, "OMP_NUM_THREADS": "1", "TRIMTAB_HOME": str(self.home)}

    def trimtab(self, *arguments: str) -> str:
        program = [str(Path(sys.executable).parent / "trimtab"), *arguments]
        return subprocess.run(program, env=self.environment, check=True, capture_output=True, text=True).stdout

    @contextmanager
    def running(self, *arguments: str) -> Iterator[None]:
        """A server or worker, and all that it starts, until the block ends."""
        program = [str(Path(sys.executable).parent / "trimtab"), *arguments]
        with (self.root / f"{arguments[0]}.log").open("w") as log:
            process = subprocess.Popen(program, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)


def recipe_in(folder: Path) -> Path:
    """The tiny recipe, judged quickly."""
    recipe = make(folder / "recipe", 24)
    rows = [
        {
            "prompt": f"w{k} w{k + 40} w{k + 80}",
            "positive": f"w{k + 120} w{k + 160} w7",
            "negative": f"w{k + 200} w{k + 240}",
        }
        for k in range(2, 34)
    ]
    (recipe.parent / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    neutral = [{"text": f"w{k} w{k + 300} w{k + 320} w{k + 340}"} for k in range(2, 18)]
    (recipe.parent / "neutral.jsonl").write_text("".join(json.dumps(row) + "\n" for row in neutral))
    with recipe.open("a") as file:
        file.write("fit: {span: answer}\nbudget: {kl: 0.2}\njudge:\n  neutral: neutral.jsonl\n")
        file.write("  prompts: 3\n  tokens: 6\n  curve: [0.2]\n")
        file.write("  placebos: {random: 2, covariance: 1, shuffled: 1}\n")
    return recipe


def until(ready: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `ready` returns, as soon as that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            answer = ready()
        except httpx.HTTPError:
            answer = None
        if answer:
            return answer
        time.sleep(2)
    raise SystemExit(f"{what}: not after {seconds:.0f} s")


def runs(flow: str, **more: Any) -> list[dict[str, Any]]:
    """Finished runs of a flow, the first to start first."""
    query = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": DONE}}, **more}}
    answer = httpx.post(f"{API}/flow_runs/filter", json={**query, "sort": "START_TIME_ASC"}, timeout=30)
    return list(answer.raise_for_status().json())


def deploy(place: Place, recipe: Path, effect: float) -> None:
    """The recipe every minute; what its effect must be decides whether prod moves."""
    require = f"require={{effect: {effect}, alias: prod}}"
    place.trimtab("deploy", str(recipe), "--cron", "* * * * *", "--set", require, "--name", "tiny")


def automate(deployment: str) -> None:
    """Run a deployment whenever an alias of `tiny` is moved."""
    trigger = {
        "type": "event", "posture": "Reactive", "expect": ["trimtab.version.promoted"],
        "match": {"prefect.resource.id": "trimtab.plan.tiny"}, "threshold": 1, "within": 0,
    }  # fmt: skip
    action = {"type": "run-deployment", "source": "selected", "deployment_id": deployment, "parameters": {}}
    body = {"name": "recheck what was promoted", "trigger": trigger, "actions": [action], "enabled": True}
    httpx.post(f"{API}/automations/", json=body, timeout=30).raise_for_status()


def tell(place: Place, what: str) -> None:
    aliases = place.trimtab("aliases", "tiny").strip() or "no alias was ever moved"
    print(f"\n## {what}\n{aliases}", flush=True)


def show(place: Place, recipe: Path, screenshots: Path | None) -> None:
    """The gate lets a version pass, the automation measures it again, the gate refuses the next."""
    place.trimtab("deploy", str(recipe), "--name", "tiny")  # makes the work pool
    deploy(place, recipe, -5)
    with place.running("worker"):
        first = until(lambda: runs("produce"), 300, "the first scheduled run")[0]
        tell(place, f"scheduled run 1: {first['state_name']}, started by {first['created_by']['type']}")
        place.trimtab("deploy", "tiny@prod", "--name", "tiny-recheck")
        known = httpx.get(f"{API}/deployments/name/recheck/tiny-recheck", timeout=30).raise_for_status().json()
        automate(known["id"])
        place.trimtab("unalias", "tiny@prod")
        print(place.trimtab("promote", "tiny", "prod"), flush=True)
        again = until(lambda: runs("recheck"), 240, "the run of the automation")[0]
        tell(place, f"recheck: {again['state_name']}, started by {again['created_by']['type']}")
        deploy(place, recipe, 5)
        refused = until(
            lambda: [run for run in runs("produce") if run["state_name"] == "Refused"], 300, "the refused run"
        )[0]
        tell(place, f"scheduled run 2: {refused['state_name']} ({refused['state_type']})")
        message = httpx.get(f"{API}/flow_runs/{refused['id']}", timeout=30).json()["state"]["message"]
        print(message, flush=True)
        if screenshots:
            photograph(screenshots, [*PAGES, f"runs/flow-run/{refused['id']}"])


def photograph(folder: Path, pages: list[str]) -> None:
    """Pages of the server, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        file = folder / f"{page.replace('/', '-')}.png"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1400,1000",
            "--virtual-time-budget=60000",
        ]
        address = f"http://127.0.0.1:{PORT}/{page}"
        subprocess.run(["chromium", *options, f"--screenshot={file}", address], check=False, capture_output=True)
        print(f"{page}: {file}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--screenshots", type=Path)
    given = parser.parse_args()
    root = given.folder or Path(tempfile.mkdtemp(prefix="gated-"))
    place = Place(root.resolve())
    recipe = recipe_in(place.root)
    with place.running("server", "--port", str(PORT)):
        until(lambda: httpx.get(f"{API}/health", timeout=5).status_code == 200, 120, "the server")
        show(place, recipe, given.screenshots)


if __name__ == "__main__":
    main()
