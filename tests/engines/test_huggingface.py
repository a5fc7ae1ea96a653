"""Continuous batching with a plan per request: each answer is the one that its request gets alone.

Tiny random models of every family that transformers can batch continuously; greedy, so tokens must be equal.
"""

import gc
import itertools

import pytest
import torch
from transformers import GenerationConfig

from trimtab.steering.engines.huggingface import EngineSettings, SteeredBatching
from trimtab.steering.errors import CannotPack, UnsupportedModel
from trimtab.steering.gates.first import First
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

NEW = 8
GREEDY = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
SMALL = EngineSettings(page=16, pages=64, pass_tokens=16)  # so small that prompts run in chunks and requests wait
PROMPTS = ([5, 6, 7, 8, 9], [10, 11, 12], list(range(20, 45)), [5, 6, 7, 8, 9], [13], [10, 11, 12])


def plan(model, seed: int, span: str = "all", point: str = "resid_post") -> SteeringPlan:
    anatomy = Anatomy.of(model)
    site = Site(point, 1)
    vector = torch.randn(anatomy.width(site), generator=torch.Generator().manual_seed(seed))
    return SteeringPlan((Intervention(site, Add(vector), Span.parse(span), 6.0),))


def alone(model, prompt: list[int], of: SteeringPlan | None) -> list[int]:
    with (of or SteeringPlan(())).on(model), torch.inference_mode():
        return model.generate(torch.tensor([prompt]), generation_config=GREEDY)[0, len(prompt) :].tolist()


def mixed(model) -> list[SteeringPlan | None]:
    """One plan per prompt of PROMPTS: several sites, spans and moves, two requests with none, one plan twice."""
    width = Anatomy.of(model).d_model
    basis = torch.linalg.qr(torch.randn(width, 2, generator=torch.Generator().manual_seed(9))).Q.T.contiguous()
    ablating = SteeringPlan((Intervention(Site("resid_pre", 1), Ablate(basis)),))
    first = plan(model, 1)
    return [first, None, plan(model, 2, "generated") + plan(model, 3, "prompt", "z"), None, ablating, first]


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """transformers collects garbage whenever an engine stops: seconds in a process that holds a test session."""
    monkeypatch.setattr(gc, "collect", lambda *generations: 0)


def batched(model, plans, settings=SMALL) -> list[list[int]]:
    """Answers of requests made all at once: one for each plan, with the prompts of PROMPTS in turn."""
    with SteeredBatching(model, settings).running(GREEDY) as engine:
        prompts = itertools.cycle(PROMPTS)
        requests = [engine.add(prompt, steering, NEW) for prompt, steering in zip(prompts, plans, strict=False)]
        answers = engine.answers(requests)
    assert not [a.error for a in answers.values() if a.error]
    return [list(answers[request].ids) for request in requests]


UNSUPPORTED = ("deepseek_v3", "gpt_neo", "gptj", "nemotron", "stablelm")  # by transformers 5.23


def test_each_answer_is_the_one_it_gets_alone(tiny):
    """In every family: equal, or refused because transformers itself batches it wrongly."""
    model = tiny
    if model.config.model_type in UNSUPPORTED:
        with pytest.raises(UnsupportedModel, match="does not run"), SteeredBatching(model, SMALL).running(GREEDY):
            pass
        return
    plans = mixed(model)
    expected = [alone(model, p, steering) for p, steering in zip(PROMPTS, plans, strict=True)]
    unsteered = [alone(model, p, None) for p in PROMPTS]
    assert expected != unsteered, "the plans changed nothing, so the test shows nothing"
    assert batched(model, plans + [None] * len(PROMPTS)) == expected + unsteered


@pytest.mark.parametrize("span", ["all", "prompt", "generated", "answer", "last", "first:3", "after:2"])
def test_every_span(span, build_tiny):
    model = build_tiny("llama")
    plans = [plan(model, 1, span), None] * 3
    assert batched(model, plans) == [alone(model, p, s) for p, s in zip(PROMPTS, plans, strict=True)]


def test_a_steered_prompt_is_never_continued_unsteered(build_tiny):
    """The same long prompt steered, unsteered, steered otherwise, in every order, over pages that are full."""
    model, prompt = build_tiny("llama"), [3 + (7 * k) % 40 for k in range(48)]
    first, second = plan(model, 1), plan(model, 2)
    plans = [first, None, second, None, first]
    expected = {steering: alone(model, prompt, steering) for steering in plans}
    assert len({tuple(ids) for ids in expected.values()}) == 3, "the plans answer alike, so the test shows nothing"
    with SteeredBatching(model, SMALL).running(GREEDY) as engine:
        for order in (plans, plans[::-1], plans[2:] + plans[:2]):
            for steering in order:  # one after another, so that the pages of the one before are there to be shared
                request = engine.add(prompt, steering, NEW)
                assert list(engine.answers([request])[request].ids) == expected[steering]


def test_a_gate_is_refused_before_anything_is_queued(build_tiny):
    model = build_tiny("llama")
    (step,) = plan(model, 1).interventions
    gated = SteeringPlan((Intervention(step.site, Gated(step.move, First(3))),))
    with SteeredBatching(model, SMALL).running(GREEDY) as engine:
        with pytest.raises(CannotPack, match="gated"):
            engine.add([1, 2, 3], gated)
        request = engine.add(PROMPTS[0], None, NEW)
        assert len(engine.answers([request])[request].ids) == NEW


def test_hooks_are_gone_and_attention_is_as_it_was(build_tiny):
    model = build_tiny("llama")
    before = (model.config._attn_implementation, alone(model, PROMPTS[0], None))
    batched(model, mixed(model))
    assert (model.config._attn_implementation, alone(model, PROMPTS[0], None)) == before


def test_answers_may_be_asked_for_in_any_order(build_tiny):
    model = build_tiny("llama")
    with SteeredBatching(model, SMALL).running(GREEDY) as engine:
        requests = [engine.add(prompt, None, NEW) for prompt in PROMPTS]
        one_by_one = [engine.answers([request])[request] for request in reversed(requests)]
    assert [list(answer.ids) for answer in one_by_one] == [alone(model, p, None) for p in reversed(PROMPTS)]


def test_a_cancelled_request_leaves_the_others_alone(build_tiny):
    model = build_tiny("llama")
    steering = plan(model, 1)
    with SteeredBatching(model, SMALL).running(GREEDY) as engine:
        engine.cancel(engine.add(PROMPTS[2], plan(model, 2), 400))
        request = engine.add(PROMPTS[0], steering, NEW)
        answer = engine.answers([request])[request]
    assert list(answer.ids) == alone(model, PROMPTS[0], steering)
