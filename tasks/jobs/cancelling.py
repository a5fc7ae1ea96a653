"""A run that somebody cancels on the Prefect server stops. By itself Prefect stops only what its workers started: a
flow that was called from Python or the command line would run on, and publish."""

import _thread
import ctypes
import signal
import threading
import time
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from trimtab.tasks.admin.doctor import server_url

EVERY = 2.0  # seconds between two looks
STOPPING = (StateType.CANCELLING, StateType.CANCELLED)


def stop_when_cancelled(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook for a flow that begins to run: from then on, its cancellation on the server interrupts the main thread. An
    embedded server lives as long as the run, and nobody can cancel there."""
    if server_url() is not None:
        threading.Thread(target=_watch, args=(flow_run.id,), name="cancelling", daemon=True).start()


def _watch(run: Any) -> None:
    with get_client(sync_client=True) as client:
        while True:
            time.sleep(EVERY)
            try:
                state = client.read_flow_run(run).state
            except Exception:  # a server that is busy or away cannot cancel
                continue
            if state is not None and state.is_final() and state.type not in STOPPING:
                return
            if state is not None and state.type in STOPPING:
                return _interrupt_main()


def _interrupt_main() -> None:
    """As Ctrl-C does, also in a process that was told to ignore Ctrl-C: one that a shell started in the background."""
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL):
        return _thread.interrupt_main()
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))
