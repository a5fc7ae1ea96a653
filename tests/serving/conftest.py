"""A tiny model that speaks the embedded model's tokens, a home with plans for it, and a service over both."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest
import torch
from small_llama import SPEAKING, speaking_llama

from trimtab.steering.gates.first import First
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.tasks.home import Home
from trimtab.tasks.serving.app import app_of
from trimtab.tasks.serving.service import Service
from trimtab.tasks.serving.settings import Limits, Serving


def plan(seed: int, gated: bool = False, span: str = "all") -> SteeringPlan:
    move = Add(torch.randn(SPEAKING, generator=torch.Generator().manual_seed(seed)))
    move = Gated(move, First(4)) if gated else move
    return SteeringPlan((Intervention("resid_post.1", move, span, 3.0),))


def publish(home: Home, name: str, of: SteeringPlan) -> str:
    packed = of.pack()
    return home.catalog.publish(name, "plan", packed.arrays, packed.header).ref


@pytest.fixture(scope="session")
def tiny():
    """(model, tokenizer)"""
    return speaking_llama(positions=512)


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Home:
    place = Home.at(tmp_path_factory.mktemp("serving"))
    publish(place, "cheerful", plan(1))
    place.catalog.promote("cheerful@1", "prod")
    publish(place, "brief", plan(2, span="generated"))
    publish(place, "gated", plan(3, gated=True))
    return place


class Client:
    """Calls the application in this process; every call has an event loop of its own."""

    def __init__(self, service: Service):
        self.service, self._app = service, app_of(service)

    def run(self, *requests: tuple[str, str, dict]) -> list[httpx.Response]:
        """All at once: (method, path, options of httpx)."""
        return self._loop.run_until_complete(self.together(requests))

    async def together(self, requests) -> list[httpx.Response]:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=120) as client:
            return await asyncio.gather(*(client.request(m, path, **options) for m, path, options in requests))

    def get(self, path: str, **options) -> httpx.Response:
        return self.run(("GET", path, options))[0]

    def post(self, path: str, **options) -> httpx.Response:
        return self.run(("POST", path, options))[0]

    def chat(self, text: str = "Tell me a story.", **fields) -> dict:
        response = self.run(asked(text, **fields))[0]
        assert response.status_code == 200, response.text
        return response.json()

    def events(self, text: str = "Tell me a story.", **fields) -> list[dict]:
        response = self.run(asked(text, stream=True, **fields))[0]
        lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert response.status_code == 200 and lines[-1] == "[DONE]", response.text
        return [json.loads(line) for line in lines[:-1]]


def asked(text: str = "Tell me a story.", **fields) -> tuple[str, str, dict]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0, "nats": False}
    return "POST", "/v1/chat/completions", {"json": {**body, **fields}}


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    here = asyncio.new_event_loop()
    yield here
    here.close()


@pytest.fixture(scope="session")
def client(tiny, home, loop) -> Iterator[Client]:
    limits = Limits(tokens=64, running=8, refresh=0.0, body=1 << 16, choices=4)
    service = Service(*tiny, home, Serving("tiny", limits=limits))
    made = Client(service)
    made._loop = loop
    yield made
    service.stop()


@pytest.fixture
def serving(client, monkeypatch):
    """Change what the running server was started with, for one test."""

    def change(**changes) -> None:
        fields = {**client.service.serving.__dict__, **changes}
        for key, value in fields.items():
            object.__setattr__(client.service.serving, key, value)

    before = dict(client.service.serving.__dict__)
    yield change
    change(**before)
