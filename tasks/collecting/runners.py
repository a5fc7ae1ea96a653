"""Where tasks run: threads, processes, Dask or Ray."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from trimtab.tasks.errors import RecipeError
from trimtab.tasks.jobs.processes import end_with_parent

RUNNERS = ("threads", "processes", "dask", "ray")
DASK_ADDRESS, RAY_ADDRESS = "TRIMTAB_DASK_ADDRESS", "TRIMTAB_RAY_ADDRESS"


def runner_of(name: str, workers: int) -> TaskRunner:
    """A Prefect task runner with this many workers.

    dask, ray: a cluster on this machine, or the one whose address stands in TRIMTAB_DASK_ADDRESS or
    TRIMTAB_RAY_ADDRESS. Raises RecipeError for an unknown name, or when the extra is not installed.
    """
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=workers)
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=workers, initializer=end_with_parent)
    if name == "dask":
        return _imported("prefect_dask", "DaskTaskRunner", "dask")(**_dask(workers))
    if name == "ray":
        return _imported("prefect_ray", "RayTaskRunner", "ray")(**_ray(workers))
    raise RecipeError(f"runner '{name}': use one of {', '.join(RUNNERS)}")


def _dask(workers: int) -> Mapping[str, Any]:
    address = os.environ.get(DASK_ADDRESS)
    if address:
        return {"address": address}
    return {"cluster_kwargs": {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}}


def _ray(workers: int) -> Mapping[str, Any]:
    address = os.environ.get(RAY_ADDRESS)
    return {"address": address} if address else {"init_kwargs": {"num_cpus": workers, "include_dashboard": False}}


def _imported(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise RecipeError(
            f"runner '{extra}': {error}; install it with `pip install 'trimtab[{extra}]'`, or use another of "
            f"{', '.join(RUNNERS)}"
        ) from None
