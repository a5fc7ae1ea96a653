"""A run that is cancelled on the server stops, whoever started it, and publishes nothing."""

import importlib
import signal
import time
from pathlib import Path

import pytest
from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import Cancelling

from trimtab import flows
from trimtab.tasks.jobs import cancelling


@pytest.mark.prefect
def test_a_cancelled_run_stops(monkeypatch):
    monkeypatch.setattr(cancelling, "EVERY", 0.1)
    published = []

    @flow(on_running=[cancelling.stop_when_cancelled])
    def job():
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(FlowRunContext.get().flow_run.id, Cancelling())
        for _ in range(200):  # work
            time.sleep(0.05)
        published.append("a plan of a cancelled run")

    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.default_int_handler, signal.SIG_IGN):  # ignored: a shell started it in the background
            signal.signal(signal.SIGINT, handler)
            with pytest.raises(KeyboardInterrupt):
                job()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not published


def test_every_flow_listens():
    modules = [path.stem for path in Path(flows.__path__[0]).glob("*.py")]
    everything = [
        thing for name in modules for thing in vars(importlib.import_module(f"trimtab.flows.{name}")).values()
    ]
    inner = ("collect-round", "study-cells")  # a job runs them, and listens while they run
    jobs = [thing for thing in everything if isinstance(thing, Flow) and thing.name not in inner]
    assert len(jobs) >= 9
    assert all(cancelling.stop_when_cancelled in (job.on_running_hooks or []) for job in jobs)
