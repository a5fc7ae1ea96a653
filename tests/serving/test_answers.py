"""Answers over HTTP: each equals its solo run, whatever runs beside it; the interface is OpenAI's."""

import itertools

import pytest
import torch

from tests.serving.conftest import asked, plan, publish
from trimtab.steering.model.tokens import tokenize
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, generate
from trimtab.tasks.serving import service

PROMPTS = ("Tell me a story.", "What is two plus two?", "Tell me a story. " * 12, "Why?")
STEERINGS = (None, "cheerful@prod", "brief", "0.5 cheerful@prod + 0.3 brief@1", {"plan": "cheerful", "strength": -1})


def text_of(body: dict) -> str:
    return body["choices"][0]["message"]["content"]


def alone(tiny, prompt: str, steering, decoding: Decoding) -> str:
    model, tokenizer = tiny
    plans = {
        None: None,
        "cheerful@prod": plan(1),
        "brief": plan(2, span="generated"),
        "0.5 cheerful@prod + 0.3 brief@1": plan(1) * 0.5 + plan(2, span="generated") * 0.3,
        "-": plan(1) * -1,
    }
    of = plans["-" if isinstance(steering, dict) else steering]
    tokens = tokenize(tokenizer, prompt)
    return tokenizer.decode(generate(model_alone(model), [tokens], of, decoding)[0], skip_special_tokens=True)


BODIES: dict[int, object] = {}


def model_alone(model):
    """The service has hooks on the model, so that the reference is computed on other weights' equal."""
    if id(model) not in BODIES:
        fresh = type(model)(model.config).eval()
        fresh.load_state_dict(model.state_dict())
        fresh.config._attn_implementation = "sdpa"
        BODIES[id(model)] = fresh
    return BODIES[id(model)]


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_each_answer_is_its_solo_run(client, tiny, temperature):
    cases = list(itertools.product(PROMPTS, STEERINGS))
    fields = {"temperature": temperature, "seed": 7, "top_p": 0.9}
    responses = client.run(*(asked(prompt, steering=steering, **fields) for prompt, steering in cases))
    decoding = Decoding(12, temperature, 7, 0, 0.9)
    expected = [alone(tiny, prompt, steering, decoding) for prompt, steering in cases]
    assert len(set(expected)) > len(cases) // 2, "the plans change little, so the test shows nothing"
    assert [text_of(response.json()) for response in responses] == expected


def test_a_steered_prompt_never_serves_another_plan(client):
    """The same long prompt in every order of steered and unsteered requests, one after another and at once."""
    prompt = "The quick brown fox jumps over the lazy dog. " * 8
    wanted = {str(s): text_of(client.chat(prompt, steering=s)) for s in STEERINGS[:4]}
    assert len(set(wanted.values())) == 4
    for order in itertools.permutations(STEERINGS[:4]):
        together = client.run(*(asked(prompt, steering=s) for s in order))
        assert [text_of(r.json()) for r in together] == [wanted[str(s)] for s in order]
    for first, second in itertools.permutations(STEERINGS[:4], 2):
        assert text_of(client.chat(prompt, steering=first)) == wanted[str(first)]
        assert text_of(client.chat(prompt, steering=second)) == wanted[str(second)]


def test_choices_count_up_from_the_seed(client):
    three = client.chat(n=3, temperature=1.0, seed=5)
    alone = [text_of(client.chat(temperature=1.0, seed=5 + k)) for k in range(3)]
    assert [choice["message"]["content"] for choice in three["choices"]] == alone and len(set(alone)) == 3
    fresh = client.chat(temperature=1.0)
    again = client.chat(temperature=1.0, seed=fresh["trimtab"]["seed"])
    assert text_of(fresh) == text_of(again)


def test_the_stream_says_what_the_whole_answer_says(client):
    fields = {"steering": "cheerful", "n": 2, "temperature": 1.0, "seed": 3, "nats": True, "logprobs": True}
    whole, events = client.chat(**fields), client.events(**fields, stream_options={"include_usage": True})
    texts, finish = {0: "", 1: ""}, {}
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
            finish[choice["index"]] = choice["finish_reason"] or finish.get(choice["index"])
    assert [texts[k] for k in (0, 1)] == [choice["message"]["content"] for choice in whole["choices"]]
    assert finish == {choice["index"]: choice["finish_reason"] for choice in whole["choices"]}
    streamed, told = events[-1]["trimtab"], whole["trimtab"]
    for one, other in zip(streamed.pop("nats"), told.pop("nats"), strict=True):  # passes differ, and round differently
        assert one["per_token"] == pytest.approx(other["per_token"], rel=1e-4, abs=1e-5)
        assert one["tokens"] == other["tokens"]
    assert events[-1]["usage"] == whole["usage"] and streamed == told
    assert len(events) > 10


@pytest.mark.parametrize("steering", [None, {"plan": "cheerful", "govern": 0.5}])
def test_stop_strings_end_an_answer(client, steering):
    whole = text_of(client.chat(steering=steering))
    stop = whole[len(whole) // 2 :][:3]
    body = client.chat(steering=steering, stop=["not there", stop])
    assert text_of(body) == whole[: whole.index(stop)] and body["choices"][0]["finish_reason"] == "stop"
    streamed = "".join(
        c["delta"].get("content", "") for e in client.events(steering=steering, stop=stop) for c in e["choices"]
    )
    assert streamed == text_of(body)


def test_nats_are_those_of_the_steer_command(client, tiny):
    response = client.run(asked(steering="cheerful@prod", nats=True))[0]
    told = response.json()["trimtab"]["nats"][0]
    model, tokenizer = tiny
    prompt = tokenize(tokenizer, "Tell me a story.")
    ids = generate(model_alone(model), [prompt], plan(1), Decoding(12, 0.0))[0]
    expected = divergences(Scorer(model_alone(model)), [prompt.followed_by(ids)], steered_from_base(plan(1)))[0]
    torch.testing.assert_close(
        torch.tensor(told["per_token"]),
        torch.tensor(expected).double().tolist() and torch.tensor(expected.tolist()),
        rtol=1e-4,
        atol=1e-5,
    )
    assert float(response.headers["x-trimtab-nats"]) == pytest.approx(told["total"], rel=1e-4) and told["total"] > 0.1
    assert response.headers["x-trimtab-steering"] == "cheerful@1" and len(response.headers["x-trimtab-digest"]) == 64
    assert len(told["tokens"]) == len(told["per_token"])
    assert client.chat(nats=True)["trimtab"]["nats"] is None


@pytest.mark.parametrize("room", [0, service.LOGITS_ROOM])
def test_nats_of_answers_that_are_measured_together_are_each_its_own(client, tiny, monkeypatch, room):
    """Prompts and plans mixed, at a temperature; with steered logits at hand, and without any."""
    monkeypatch.setattr(service, "LOGITS_ROOM", room)
    cases = list(itertools.product(PROMPTS[:3], STEERINGS[1:3]))
    fields = {"temperature": 0.8, "seed": 7, "max_tokens": 8, "nats": True}
    responses = client.run(*(asked(prompt, steering=steering, **fields) for prompt, steering in cases))
    plans = {"cheerful@prod": plan(1), "brief": plan(2, span="generated")}
    decoding, model = Decoding(8, 0.8, 7), model_alone(tiny[0])
    for (prompt, steering), response in zip(cases, responses, strict=True):
        tokens, steer = tokenize(tiny[1], prompt), plans[steering]
        text = tokens.followed_by(generate(model, [tokens], steer, decoding)[0])
        (expected,) = divergences(Scorer(model), [text], steered_from_base(steer, decoding.sampling))
        told = response.json()["trimtab"]["nats"][0]["per_token"]
        assert told == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5) and max(told) > 0.01 and min(told) >= 0


def test_a_governed_answer_stays_within_its_bounds(client):
    free = client.chat(steering="cheerful", nats=True)["trimtab"]["nats"][0]
    body = client.chat(steering={"plan": "cheerful", "govern": 0.05, "govern_total": 0.2}, temperature=1.0, seed=1)
    told = body["trimtab"]["nats"][0]
    assert (
        max(free["per_token"]) > 0.05 >= max(told["per_token"]) and told["total"] <= 0.2 and told["governor_acts"] > 0
    )


def test_a_gate_decides_on_the_whole_prompt(client, tiny):
    model, tokenizer = tiny
    expected = generate(model_alone(model), [tokenize(tokenizer, PROMPTS[0])], plan(3, gated=True), Decoding(12, 0.0))
    assert text_of(client.chat(steering="gated")) == tokenizer.decode(expected[0], skip_special_tokens=True)


def test_a_kl_is_dosed(client):
    body = client.chat(steering={"plan": "cheerful", "kl": 0.3}, nats=True)
    assert body["trimtab"]["dosed_strength"] > 0 and body["trimtab"]["plans"][0]["strength"] > 0


def test_logprobs(client):
    body = client.chat(logprobs=True, top_logprobs=3)
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == body["usage"]["completion_tokens"]
    assert all(token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0 for token in content), "greedy"
    plain = client.post("/v1/completions", json={"prompt": "One two", "max_tokens": 4, "temperature": 0, "logprobs": 2})
    assert len(plain.json()["choices"][0]["logprobs"]["token_logprobs"]) == 4


def test_completions_take_texts_and_ids(client, tiny):
    ids = tiny[1]("One two three")["input_ids"]
    ask = {"max_tokens": 6, "temperature": 0, "steering": "cheerful", "nats": False}
    texts = [
        [choice["text"] for choice in client.post("/v1/completions", json={"prompt": p, **ask}).json()["choices"]]
        for p in ("One two three", ids, ["One two three", "Four"], [ids, ids])
    ]
    assert texts[0] == texts[1] == texts[2][:1] == texts[3][:1] == texts[3][1:] and texts[2][1] != texts[0][0]


def test_an_alias_that_moves_is_followed_without_a_lost_request(client, home):
    before = text_of(client.chat(steering="moving")) if publish(home, "moving", plan(5)) else ""
    home.catalog.promote("moving@1", "prod")
    responses = client.run(*(asked(steering="moving@prod") for _ in range(6)))
    publish(home, "moving", plan(6))
    home.catalog.promote("moving@2", "prod")
    after = client.run(*(asked(steering="moving@prod") for _ in range(6)))
    assert {text_of(r.json()) for r in responses} == {before}
    assert {r.json()["trimtab"]["steering"] for r in after} == {"moving@2"}
    assert {text_of(r.json()) for r in after} == {text_of(client.chat(steering="moving@2"))} != {before}


def test_a_plan_may_stand_in_place_of_the_model(client):
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names[0] == "tiny" and "cheerful@prod" in names
    assert text_of(client.chat(model="cheerful@prod")) == text_of(client.chat(steering="cheerful@prod", model="tiny"))
