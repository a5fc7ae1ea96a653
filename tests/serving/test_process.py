"""A real server process on the real model: openai's client, the page in a browser, and its end at a signal."""

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from pages import ROOT, blocks

from tests.end_to_end.conftest import inside
from trimtab.steering import Add, Anatomy, Intervention, SteeringPlan
from trimtab.tasks.home import Home

pytestmark = [pytest.mark.real_model, pytest.mark.slow]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def home(tmp_path_factory, real_model) -> Path:
    folder = tmp_path_factory.mktemp("real") / "home"
    anatomy = Anatomy.of(real_model[0])
    vector = torch.randn(anatomy.d_model, generator=torch.Generator().manual_seed(0))
    packed = SteeringPlan((Intervention("resid_post.15", Add(vector), "all", 1.0),), anatomy.fingerprint).pack()
    catalog = Home.at(folder).catalog
    catalog.publish("cheerful", "plan", packed.arrays, packed.header)
    catalog.promote("cheerful@1", "prod")
    return folder


def begin(home: Path, *more: str) -> tuple[subprocess.Popen, str]:
    command = [str(Path(sys.executable).parent / "trimtab"), "--home", str(home), "serve", "smollm2", "--port", "0"]
    server = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
    seen = ""
    for line in server.stderr:  # type: ignore[union-attr]
        seen += line
        if match := re.search(r"serving on (\S+)", line):
            return server, match[1]
    raise AssertionError(seen)


@pytest.fixture(scope="module")
def served(home) -> Iterator[tuple[subprocess.Popen, str]]:
    """(process, url): one for the whole file; the last test ends it."""
    server, address = begin(home, "--plan", "cheerful@prod")
    yield server, address
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def url(served) -> str:
    return served[1]


def test_openais_client_as_the_page_of_the_documentation_uses_it(url, capsys):
    pytest.importorskip("openai")
    (code,) = blocks(ROOT / "docs/how-to/serve.md", "py")
    namespace: dict = {}
    exec(compile(code.replace("http://127.0.0.1:8000", url), "serve.md", "exec"), namespace)
    assert "cheerful@1" in capsys.readouterr().out
    client, message = namespace["client"], [{"role": "user", "content": "Count to three."}]
    ask = {"model": "smollm2", "messages": message, "max_tokens": 8, "seed": 2}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    stream = client.chat.completions.create(**ask, stream=True)
    assert "".join(c.delta.content or "" for chunk in stream for c in chunk.choices) == whole
    assert [model.id for model in client.models.list().data] == ["smollm2", "cheerful@prod"]


def test_mistakes_are_one_line(home):
    for arguments, says in (
        (("--plan", "none@1"), "none"),
        (("--host", "0.0.0.0"), "--api-key"),
    ):
        done = inside("serve", *arguments, "--port", "0", home=home)
        assert done.code == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_shows_both_answers_with_coloured_nats(url, tmp_path):
    """The page presses its own button: Chromium runs it and prints the document when the answers are there."""
    html = httpx.get(url).text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html), "the page connects to nobody"
    document = browse(url, tmp_path)
    assert document.count("data-nats") > 5 and "nats, " in document and "cheerful@1" in document
    assert re.search(r'<div class="text" id="base">[^<]{10,}', document), document[-2000:]


def browse(url: str, folder: Path) -> str:
    """The document after a press of the button."""
    with tab_at(url, folder) as tab:
        tab.value("document.getElementById('tokens').value = 16, document.getElementById('go').click()")
        tab.until("document.getElementById('state').textContent === 'done'")
        (folder / "page.png").write_bytes(tab.picture())
        return str(tab.value("document.documentElement.outerHTML"))


@contextmanager
def tab_at(url: str, folder: Path) -> "Iterator[Tab]":
    """The page in a browser, spoken to by the browser's own protocol. folder: for the browser's files."""
    websockets = pytest.importorskip("websockets.sync.client")
    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
    ]
    browser = subprocess.Popen([str(BROWSER), *arguments, url], stderr=subprocess.PIPE, text=True)
    try:
        port = next(m[1] for line in browser.stderr if (m := re.search(r"ws://127.0.0.1:(\d+)/", line)))  # type: ignore[union-attr]
        page = next(p for p in httpx.get(f"http://127.0.0.1:{port}/json").json() if p["type"] == "page")
        with websockets.connect(page["webSocketDebuggerUrl"], max_size=None) as channel:
            tab = Tab(channel)
            tab.until("document.readyState === 'complete' && document.getElementById('plan').options.length > 0")
            yield tab
    finally:
        browser.kill()
        browser.wait()


class Tab:
    """A tab of the browser."""

    def __init__(self, channel):
        self._channel, self._number = channel, 0

    def call(self, method: str, **params):
        self._number += 1
        self._channel.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (reply := json.loads(self._channel.recv(60))).get("id") != self._number:
            pass
        return reply["result"]

    def value(self, code: str):
        return self.call("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    def until(self, code: str) -> None:
        end = time.monotonic() + 120
        while not self.value(code):
            assert time.monotonic() < end, code
            time.sleep(0.1)

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


def test_a_running_answer_ends_in_good_order_at_a_signal(served):
    server, url = served
    body = {"messages": [{"role": "user", "content": "Tell me everything."}], "max_tokens": 40, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        for _ in range(4):
            next(lines)
        server.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert "data: [DONE]" in rest and server.wait(40) == 0
    assert "Traceback" not in server.stderr.read()
