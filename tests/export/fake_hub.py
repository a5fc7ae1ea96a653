"""The Hugging Face Hub as far as a plan's repository needs it, on this machine: make a repository, commit, read a file.

Every file goes into the commit itself; the Hub would take large ones by another way, which is its client's business.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants as hub_constants
import pytest

COMMIT = "c" * 40


class FakeHub:
    """repositories: repo id -> file name -> content. token: that writing needs. asked: (method, path) of requests."""

    def __init__(self, token: str) -> None:
        self.token, self.repositories, self.private, self.asked = token, {}, {}, []


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.asked.append(("POST", self.path))
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        repo = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.answer(200, {"files": [file | {"shouldIgnore": False, "oid": None} for file in files]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.hub.repositories[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.base}/{repo}/commit/{COMMIT}"
            return self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})
        return self.answer(404, {"error": "not here"})

    def create(self, fields: dict) -> None:
        repo = "/".join(filter(None, (fields.get("organization"), fields["name"])))
        if repo in self.hub.repositories:
            return self.answer(409, {"error": "You already created this model repo", "url": f"{self.base}/{repo}"})
        self.hub.repositories[repo], self.hub.private[repo] = {}, fields.get("visibility") == "private"
        return self.answer(200, {"url": f"{self.base}/{repo}", "name": repo})

    def do_HEAD(self) -> None:
        self.serve(False)

    def do_GET(self) -> None:
        self.serve(True)

    def serve(self, with_body: bool) -> None:
        self.hub.asked.append((self.command, self.path))
        parts = self.path.strip("/").split("/")
        files = self.hub.repositories.get("/".join(parts[:2]))
        if files is None:
            return self.answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        content = files.get("/".join(parts[4:])) if parts[2:3] == ["resolve"] else None
        if content is None:
            return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self.answer(200, content, headers, with_body)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, status: int, content: object, headers: dict | None = None, with_body: bool = True) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def fake_hub(token: str = "hf_test") -> Iterator[tuple[FakeHub, str]]:
    """(the hub, its address) while the block runs."""
    hub = FakeHub(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub_here(monkeypatch, tmp_path):
    """An imitated Hub, which the client in this process asks, with a cache of its own."""
    with fake_hub() as (hub, address):
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_constants, "ENDPOINT", address)
        monkeypatch.setattr(
            hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub
