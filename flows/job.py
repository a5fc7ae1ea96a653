"""job: a Prefect flow as trimtab has them. It stops when somebody cancels it, and leaves no pickle and no device id."""

import contextlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, flow
from prefect.states import Failed

from trimtab.tasks.errors import NegativeOutcome
from trimtab.tasks.jobs.cancelling import stop_when_cancelled

P = ParamSpec("P")
R = TypeVar("R")


def job(name: str, run_name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Decorator. name: as Prefect lists it. run_name: of one run, with the parameters in braces.

    Prefect writes the exception of a failed flow to its storage, by default as a pickle: here as JSON.
    """
    return flow(name=name, flow_run_name=run_name, on_running=[stop_when_cancelled], result_serializer="json")


def negative(state: str, outcome: NegativeOutcome, result: object) -> Any:
    """What a flow returns that ran to its end with a negative answer: a failed state of this name, whose message says
    why, without a traceback. A caller in Python gets the exception, with the result in it."""
    outcome.result = result
    return Failed(name=state, message=str(outcome), data=outcome)


def _no_device_id() -> None:
    """DO_NOT_TRACK keeps Prefect from sending events, not from making up an id of this machine and storing it as soon
    as a flow is defined in a terminal."""
    with contextlib.suppress(ImportError):
        from prefect._internal.analytics import emit

        emit.get_or_create_device_id = _refused


def _refused() -> str:
    raise RuntimeError("nothing is tracked")


_no_device_id()
