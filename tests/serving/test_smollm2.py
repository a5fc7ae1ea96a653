"""`trimtab serve` on SmolLM2 as a whole: every answer is its solo run; curl does as the documentation has it, and each
mode of the page does so in a browser. Minutes: `make test-serve`."""

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from pages import ROOT, blocks

from tests.serving.test_process import BROWSER, begin, tab_at
from trimtab.steering import Add, Anatomy, Intervention, SteeringPlan
from trimtab.steering.governing.governor import Governor
from trimtab.steering.model.tokens import tokenize
from trimtab.steering.running.writing import Decoding, generate
from trimtab.tasks.home import Home

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not os.environ.get("TRIMTAB_SERVE"), reason="takes minutes; `make test-serve`"),
]
NEW = 24
PROMPTS = (
    "Tell me about your day.",
    "What is a steam engine?",
    "Name three rivers.",
    "Write one line of a poem about snow. " * 6,
    "Who wrote Hamlet?",
    "Why is the sky blue?",
)


@pytest.fixture(scope="module")
def plans(real_model) -> dict[str, SteeringPlan]:
    anatomy = Anatomy.of(real_model[0])

    def plan(seed: int, block: int, size: float, span: str) -> SteeringPlan:
        vector = size * torch.randn(anatomy.d_model, generator=torch.Generator().manual_seed(seed))
        return SteeringPlan((Intervention(f"resid_post.{block}", Add(vector), span),), anatomy.fingerprint)

    cheerful, first, second = plan(1, 12, 0.5, "answer"), plan(2, 20, 1.0, "all"), plan(3, 6, 0.4, "generated")
    return {"cheerful@prod": cheerful, "brief@1": first, "brief@2": second}


@pytest.fixture(scope="module")
def url(plans, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("whole") / "home"
    catalog = Home.at(folder).catalog
    for ref, plan in plans.items():
        packed = plan.pack()
        catalog.publish(ref.partition("@")[0], "plan", packed.arrays, packed.header)
    catalog.promote("cheerful@1", "prod")
    server, address = begin(folder, "--running", "16", "--tokens", "48")
    yield address
    server.kill()
    server.wait()


def ask(url: str, prompt: str, steering, temperature: float) -> str:
    body = {
        "messages": [{"role": "user", "content": prompt}], "max_tokens": NEW, "temperature": temperature, "seed": 7,
        "steering": steering, "nats": False,
    }  # fmt: skip
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def alone(real_model, prompt: str, plan: SteeringPlan | None, temperature: float, bound: float | None) -> str:
    model, tokenizer = real_model
    tokens, decoding = tokenize(tokenizer, prompt), Decoding(NEW, temperature, 7)
    if bound is None:
        ids = generate(model, [tokens], plan, decoding)[0]
    else:
        with plan.on(model, prompt_lengths=[tokens.prompt_length], govern=Governor(bound)):
            ids = generate(model, [tokens], None, decoding)[0]
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_sixty_mixed_answers_are_each_their_solo_run(url, plans, real_model):
    cheerful, brief = plans["cheerful@prod"], plans["brief@2"]
    cases = [
        (None, None, None),
        ("cheerful@prod", cheerful, None),
        ("brief@1", plans["brief@1"], None),
        ("0.5 cheerful@prod + 0.3 brief@2", cheerful.scaled(0.5) + brief.scaled(0.3), None),
        ({"plan": "brief@2", "govern": 0.2}, brief, 0.2),
    ]
    requests = list(itertools.product(PROMPTS, cases, (0.0, 0.8)))
    expected = [alone(real_model, prompt, plan, t, bound) for prompt, (_, plan, bound), t in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda r: ask(url, r[0], r[1][0], r[2]), requests))
    assert len(requests) == 60 and len(set(expected)) > 40, "the plans hardly change the answers"
    assert answers == expected


def test_curl_as_the_documentation_has_it(url):
    (command,) = blocks(ROOT / "docs/how-to/serve.md", "bash")
    done = subprocess.run(
        command.replace("http://127.0.0.1:8000", url), shell=True, capture_output=True, text=True, timeout=300
    )
    head, _, body = done.stdout.partition("\n\n")
    assert head.startswith("HTTP/1.1 200"), done.stdout + done.stderr
    assert "x-trimtab-steering: 0.5 cheerful@1 + 0.3 brief@2" in head
    told = json.loads(body)["trimtab"]
    assert max(told["nats"][0]["per_token"]) <= 0.5 + 1e-6


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize(("mode", "exponent"), [("strength", None), ("kl", -0.5), ("govern", -1.0)])
def test_every_mode_of_the_page(url, mode, exponent, tmp_path):
    """What the page shows is what the same request gets from the interface."""
    with tab_at(url, tmp_path) as tab:
        number = "" if exponent is None else f"$('kl').value={exponent};"
        tab.value(f"$('mode').value='{mode}';{number}$('tokens').value=16;$('plan').value='brief';shown()")
        shown = tab.value("JSON.stringify([$('strengthBox').hidden, $('klBox').hidden, steering()])")
        no_strength, no_kl, steering = json.loads(shown)
        assert (no_strength, no_kl) == (mode != "strength", mode == "strength")
        tab.value("$('go').click()")
        tab.until("$('state').textContent === 'done'")
        text, facts = tab.value("$('steered').textContent"), tab.value("$('steeredFacts').textContent")
        spent = json.loads(tab.value("JSON.stringify([...$('steered').children].map(s => +s.dataset.nats))"))
        base = tab.value("$('base').textContent")
        (tmp_path / "page.png").write_bytes(tab.picture())
    assert steering == {"plan": "brief", mode: pytest.approx(1 if exponent is None else 10**exponent)}
    body = {"messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 16, "temperature": 0, "seed": 0}
    steered = httpx.post(f"{url}/v1/chat/completions", json={**body, "steering": steering}, timeout=300).json()
    unsteered = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).json()
    assert text == steered["choices"][0]["message"]["content"]
    assert base == unsteered["choices"][0]["message"]["content"] != text
    nats = steered["trimtab"]["nats"][0]
    assert spent == pytest.approx(nats["per_token"], rel=1e-3, abs=1e-5) and sum(spent) > 0
    strength = steered["trimtab"]["plans"][0]["strength"]
    assert float(re.search(r"brief@2 × (\S+)", facts)[1]) == pytest.approx(strength, rel=0.01)
    if mode == "kl":
        assert strength != 1
    if mode == "govern":
        assert max(spent) <= 0.1 + 1e-6 and f"governor acted on {nats['governor_acts']} tokens" in facts
