"""A server on an address, until it is told to stop."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.sections import ModelSpec
from trimtab.tasks.serving.app import app_of
from trimtab.tasks.serving.service import Service
from trimtab.tasks.serving.settings import Refused, Serving

GRACE = 30  # seconds that running answers get when the server is told to stop


@dataclass(frozen=True)
class Address:
    """Where to listen. port 0: any that is free."""

    host: str = "127.0.0.1"
    port: int = 8000


class _Server(uvicorn.Server):
    """Ends at a signal in good order; the program's own handlers do not see the signal again afterwards."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_server(model: ModelSpec, home: Home, serving: Serving, at: Address, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; running answers then get GRACE seconds. ready: called with the URL.

    Raises RecipeError for an address that cannot be taken or a plan that cannot be served, before anything is served.
    """
    listener = _listening(at)
    body, tokenizer = model_of(model)
    service = Service(body, tokenizer, home, serving)
    try:
        _check_plans(service)
        host, port = listener.getsockname()[:2]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        config = uvicorn.Config(
            app_of(service), log_level="warning", timeout_graceful_shutdown=GRACE, lifespan="off", access_log=False
        )
        _Server(config).run(sockets=[listener])
    finally:
        listener.close()
        service.stop()


def _listening(at: Address) -> socket.socket:
    try:
        family = socket.getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family[0], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(family[4])
        listener.listen(512)  # who comes before the server runs waits for it
    except (OSError, OverflowError) as error:
        raise RecipeError(
            f"{at.host}:{at.port} cannot be listened on ({error}); give another --port or --host"
        ) from None
    return listener


def _check_plans(service: Service) -> None:
    try:
        for ref in service.serving.plans:
            service.plans.check(ref)
    except Refused as error:
        raise RecipeError(str(error)) from None
