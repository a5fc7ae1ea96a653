"""S3 that answers 503, breaks connections in the middle of a write, and loses answers: nothing is torn or lost, and
whoever tries again ends with the same digests."""

import http.client
import threading
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import numpy as np
import pytest

from trimtab.store import ActivationStore, Catalog
from trimtab.store.errors import StoreError
from trimtab.store.verify import verify

moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]' to test S3")

TRIES = 40
HOP = ("transfer-encoding", "connection", "date", "server")


class Faults(ThreadingHTTPServer):
    """A proxy before an S3 server. `kind` says what goes wrong with a share of the requests: "error" answers 503,
    "cut" drops the connection after half of the body, "lost" drops it after the server has done what was asked."""

    daemon_threads = True

    def __init__(self, server: tuple[str, int]) -> None:
        self.server, self.kind, self.share, self.count = server, "", 0.0, 0
        self._random, self._lock = Random(0), threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    def strikes(self) -> str:
        with self._lock:
            struck = self._random.random() < self.share
            self.count += struck
        return self.kind if struck else ""

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what this is about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        proxy: Faults = self.server  # type: ignore[assignment]
        length, fault = int(self.headers.get("Content-Length") or 0), proxy.strikes()
        body = self.rfile.read(length // 2 if fault == "cut" else length)
        if fault == "cut":
            return self.drop()
        if fault == "error":
            return self.answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
        backend = http.client.HTTPConnection(*proxy.server, timeout=30)
        backend.request(self.command, self.path, body, dict(self.headers))
        found = backend.getresponse()
        content = found.read()
        backend.close()
        return self.drop() if fault == "lost" else self.answer(found.status, dict(found.getheaders()), content)

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        kept = {
            k: v for k, v in headers.items() if k.lower() not in ("transfer-encoding", "connection", "date", "server")
        }
        if self.command != "HEAD":
            kept["Content-Length"] = str(len(content))
        for name, value in kept.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, *args: object) -> None:
        pass

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any


@pytest.fixture
def faulty(monkeypatch):
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Faults(server.get_host_and_port())
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{proxy.server_address[1]}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"))
    yield proxy
    proxy.shutdown()
    server.stop()


def new_place() -> str:
    """The local server keeps one memory for all tests."""
    return f"s3://bucket/{uuid.uuid4().hex}"


def until_done(act):
    """Call until it works, as somebody would who starts the command again. Only clear errors may come out of it."""
    for _ in range(TRIES):
        try:
            return act()
        except StoreError as error:
            assert len(str(error)) < 1000
    raise AssertionError(f"{TRIES} tries were not enough")


@pytest.mark.parametrize("kind, share", [("error", 0.15), ("cut", 0.1), ("lost", 0.1)])
def test_a_capture_has_the_same_digest(faulty, sample, store, kind, share) -> None:
    faulty.kind, faulty.share, place = kind, share, new_place()
    other = until_done(lambda: sample.collect(place))
    assert faulty.count > 3, "nothing went wrong"
    faulty.share = 0.0
    again = ActivationStore.open(place)
    assert again.digest == other.digest == store.digest
    for site in store.sites:
        assert np.array_equal(again.rows(site, dtype=None), store.rows(site, dtype=None))


@pytest.mark.parametrize("kind", ["error", "lost"])
def test_a_version_is_published_once(faulty, kind) -> None:
    place = new_place()
    Catalog(place).publish("plan", "plan", {}, {"n": 0})
    faulty.kind, faulty.share = kind, 0.2
    for n in (1, 2, 3):
        until_done(lambda n=n: Catalog(place).publish("plan", "plan", {"x": np.arange(n)}, {"n": n}))
    faulty.share = 0.0
    assert [a.header["n"] for a in Catalog(place).list()] == [0, 1, 2, 3]
    assert all(finding.ok for finding in verify(Catalog(place)))
