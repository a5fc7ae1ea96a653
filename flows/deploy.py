"""Deploy: a recipe on a schedule, run by a worker. Needs a Prefect server (`prefect server start`), not a cloud."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from trimtab.flows.kinds import flow_of
from trimtab.flows.produce import recheck
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.recipes.kinds import RecipeFile

POOL = "trimtab-local"
LOGGING = "PREFECT_LOGGING_LEVEL"


@dataclass(frozen=True)
class Deployed:
    """name: `<flow>/<recipe>` as Prefect lists it. pool: the work pool whose worker runs it. cron: its schedule."""

    name: str
    pool: str
    cron: str | None


def check_cron(text: str) -> None:
    """Raises RecipeError when `text` is no cron schedule."""
    try:
        CronSchedule(cron=text)
    except (ValidationError, ValueError):
        raise RecipeError(f"--cron {text!r}: not a cron schedule; five fields, for example '0 3 * * *'") from None


def deploy(file: RecipeFile, name: str, home: str, cron: str | None = None) -> Deployed:
    """Register the flow that runs a recipe of this kind. The worker reads the file again when it runs, from an absolute
    path, because it starts elsewhere."""
    parameters = {"recipe": str(Path(file.path).resolve()), "overrides": list(file.overrides)}
    return _register(flow_of(file.recipe), name, {**parameters, "home": _absolute(home)}, cron)


def deploy_recheck(ref: str, name: str, home: str, cron: str | None = None, roll_back: bool = False) -> Deployed:
    """Register the flow that measures a published plan again."""
    return _register(recheck, name, {"ref": ref, "home": _absolute(home), "roll_back": roll_back}, cron)


def _absolute(home: str) -> str:
    return home if "://" in home else str(Path(home).resolve())


def _register(flow: Flow[Any, Any], name: str, parameters: dict[str, Any], cron: str | None) -> Deployed:
    _make_pool()
    deployment = flow.to_deployment(
        name=name,
        parameters=parameters,
        schedule=Cron(cron, timezone="UTC") if cron else None,
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
        work_pool_name=POOL,
    )
    deployment.apply()  # type: ignore[union-attr]
    return Deployed(f"{flow.name}/{name}", POOL, cron)


def work() -> int:
    """Run deployed recipes until stopped. Their logs go to the server: the command line is quiet, a worker is not."""
    loud = {} if os.environ.get(LOGGING) not in (None, "CRITICAL") else {LOGGING: "INFO"}
    return _prefect("worker", "start", "--pool", POOL, "--type", "process", environment=loud)


def serve(port: int, background: bool) -> int:
    """Prefect's server, with what `trimtab.tasks` says of telemetry in its environment."""
    return _prefect("server", "start", "--port", str(port), *(["--background"] if background else []))


def end_server() -> int:
    """End the server that runs in the background."""
    return _prefect("server", "stop")


def _prefect(*arguments: str, environment: Mapping[str, str] | None = None) -> int:
    program = subprocess.Popen([sys.executable, "-m", "prefect", *arguments], env={**os.environ, **(environment or {})})
    try:
        return program.wait()
    except KeyboardInterrupt:  # it was told to stop, too: it says so to its peers first
        program.wait()
        raise


def _make_pool() -> None:
    """Made through the client: `prefect work-pool create` would make the server ask the internet for templates."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
