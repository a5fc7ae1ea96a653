"""What is refused, in one line and with the right status; hostile requests leave the others' answers alone."""

import asyncio
import json
import os
import time

import pytest

from tests.serving.conftest import Client, asked
from tests.serving.hostile import hostile
from trimtab.tasks.serving.service import Service
from trimtab.tasks.serving.settings import Limits, Serving

MANY = int(os.environ.get("TRIMTAB_HOSTILE", "60"))


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"steering": "cheerfull"}, 404, "cheerful"),
        ({"steering": "cheerful@99"}, 404, "version"),
        ({"steering": "a b"}, 400, "steering expression"),
        ({"steering": {"plan": "cheerful", "strenght": 1}}, 400, "did you mean 'strength'"),
        ({"steering": "21 cheerful"}, 400, "at most 20"),
        ({"steering": {"plan": "cheerful", "strength": 1e38}}, 400, "at most 20"),
        ({"temperature": -1}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"tools": []}, 400, "tools"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"max_tokens": 65}, 400, "at most 64"),
        ({"n": 5}, 400, "at most 4"),
        ({"model": "gpt"}, 404, "no model"),
        ({"model": "\ud800"}, 404, "no model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, 400, "tokens"),
        ({"stop": [""]}, 400, "stop"),
        ({"seed": -1}, 400, "seed"),
    ],
)
def test_what_is_refused(client, fields, status, says):
    path, body = asked(**fields)[1], json.dumps(asked(**fields)[2]["json"])
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert response.status_code == status and says in error["message"] and "\n" not in error["message"], response.text
    body = json.dumps(asked(stream=True, **fields)[2]["json"])
    assert client.post(path, content=body).status_code == status


def test_a_body_has_a_size(client):
    assert client.post("/v1/chat/completions", content=b" " * (1 << 17)).status_code == 413


def test_keys(client, serving):
    serving(keys=("one", "two"))
    assert client.run(asked())[0].status_code == 401 and client.get("/metrics").status_code == 401
    assert client.get("/health").status_code == 200
    path, options = asked()[1:]
    for key, status in (("two", 200), ("three", 401), ("", 401)):
        assert client.post(path, headers={"authorization": f"Bearer {key}"}, **options).status_code == status


def test_only_the_plans_that_were_named_are_served(client, serving):
    serving(plans=("cheerful@prod",))
    assert client.run(asked(steering="brief"))[0].status_code == 404
    assert client.run(asked(steering="cheerful@prod"))[0].status_code == 200


def test_more_than_may_wait_are_told_to_come_again(client, serving):
    serving(limits=Limits(tokens=64, waiting=2, refresh=0.0, choices=4))
    statuses = [response.status_code for response in client.run(*(asked() for _ in range(16)))]
    assert statuses.count(200) == 10 and statuses.count(429) == 6


def test_an_answer_that_takes_too_long_is_given_up(client, serving):
    serving(limits=Limits(tokens=400, seconds=0.01, refresh=0.0))
    assert client.run(asked(max_tokens=300))[0].status_code == 504


def test_a_client_that_goes_away_frees_what_it_held(client):
    async def leave() -> None:
        task = asyncio.ensure_future(client.together([asked(max_tokens=64)]))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for _ in range(12):
        client._loop.run_until_complete(leave())
    assert client.service._slots._value == 8
    assert client.run(asked())[0].status_code == 200
    assert not client.service._continuous.engine._packing._plans


def test_hostile_requests_leave_the_others_alone(client):
    """None crashes the server; sound requests between them get their solo answers."""
    sound = [asked(), asked(steering="cheerful@prod"), asked(steering="brief", temperature=1.0, seed=4)]
    wanted = [response.json()["choices"] for response in map(lambda one: client.run(one)[0], sound)]
    requests = hostile(MANY)
    for start in range(0, len(requests), 6):
        responses = client.run(*requests[start : start + 6], *sound)
        assert all(response.status_code not in (500, 503) for response in responses), [r.text for r in responses]
        assert [response.json()["choices"] for response in responses[-3:]] == wanted
    assert client.get("/health").json() == {"status": "ok"}


def test_an_engine_that_died_says_so(tiny, home, loop, monkeypatch):
    """The request that ran fails, those that come are refused, and `/health` tells who watches."""
    model = type(tiny[0])(tiny[0].config).eval()
    service = Service(model, tiny[1], home, Serving("tiny"))
    client = Client(service)
    client._loop = loop
    assert client.get("/ready").status_code == 200

    def die(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(service._continuous.engine._packing, "begin", die)
    failed = client.run(asked())[0]
    assert failed.status_code == 500 and "out of memory" in failed.json()["error"]["message"]
    end = time.monotonic() + 10
    while client.get("/health").status_code == 200 and time.monotonic() < end:
        time.sleep(0.05)
    assert client.run(asked())[0].status_code == client.get("/health").status_code == 503
    service.stop()


def test_metrics_count(client):
    client.chat(steering="cheerful@prod", nats=True)
    text = client.get("/metrics").text
    assert 'trimtab_answers_total{end="length",plan="cheerful@prod"}' in text
    assert float(next(line for line in text.splitlines() if line.startswith("trimtab_nats_total")).split()[1]) > 0
