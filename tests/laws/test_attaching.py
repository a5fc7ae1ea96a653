"""Laws of attaching: whatever was done to the model or is done with it, a plan acts as said or somebody is told."""

import copy
import logging
import threading
import types
import warnings
from itertools import permutations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from trimtab.steering.errors import BadSpan, SilentNoOp, SteeringError
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.proof import readable_points
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.reading import capture

IDS, NEW = torch.tensor([[7, 3, 52, 11, 30, 3]]), torch.tensor([[9, 21, 4]])
SPANS = ("prompt", "generated", "last", "after:7")
SITE = Site("resid_post", 1)


@pytest.fixture
def plan(tiny_llama, bench):
    return bench.plan(tiny_llama, SITE, span="generated") * 3


def generated(model, **options) -> torch.Tensor:
    return model.generate(**{"input_ids": IDS, "max_new_tokens": 4, "do_sample": False, **options})


def test_interventions_act_in_the_order_of_the_computation_however_they_are_listed(tiny, bench):
    points = [point for point in readable_points(Anatomy.of(tiny)) if point != "embed"]  # in that order
    steps = [bench.step(tiny, Site(point, 1)) for point in points if point != "resid_mid"]
    direction = torch.eye(Anatomy.of(tiny).d_model)[:1]
    mid = [Intervention(Site("resid_mid", 1), Ablate(direction))] if "resid_mid" in points else []
    logits = []
    for order in [*list(permutations(steps + mid))[:: 1 + 5000 // len(points)][:4], steps + mid]:
        with SteeringPlan(tuple(order)).on(tiny):
            seen = bench.read(tiny, [step.site for step in mid])
        logits.append(seen["logits"])
    for step in mid:
        assert (seen[step.site] @ direction[0]).abs().max() < 1e-4
    assert all(torch.equal(logits[0], other) for other in logits)


def test_new_tokens_continue_a_cache_as_the_whole_text_does(tiny, bench):
    whole, mask = torch.cat([IDS, NEW], dim=1), torch.ones(1, 9, dtype=torch.long)
    with torch.no_grad():
        cache = tiny(IDS, use_cache=True).past_key_values
    for span in SPANS:
        with (bench.plan(tiny, SITE, span=span) * 2).on(tiny):
            options = {"attention_mask": mask, "max_new_tokens": 4}
            want = generated(tiny, input_ids=whole, past_key_values=copy.deepcopy(cache), **options)
            got = generated(tiny, input_ids=NEW, past_key_values=copy.deepcopy(cache), **options)
        assert torch.equal(got[:, 3:], want[:, 9:]), span


def test_a_static_cache_is_any_cache(tiny, bench, assert_same):
    """Passes have a mask per query then, or one per kind of layer, as wide as the cache. (gpt_neo itself answers
    otherwise with one.)"""
    ids, static = torch.cat([torch.full((1, 2), 5), IDS], dim=1), {"cache_implementation": "static"}
    options = {"attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]), "n": 3}
    if torch.allclose(*(bench.generate(tiny, ids, **options, **how)[1] for how in ({}, static)), atol=1e-3):
        for span in SPANS:
            with (bench.plan(tiny, SITE, span=span) * 2).on(tiny):
                want = bench.generate(tiny, ids, **options)[1]
                assert_same(bench.generate(tiny, ids, **static, **options)[1], want)
    else:
        assert tiny.config.model_type == "gpt_neo"


def test_blocks_nest_and_a_callers_own_generate_survives(tiny_llama, bench, plan):
    model = copy.deepcopy(tiny_llama)
    with plan.on(model):
        want = generated(model, use_cache=False)
        with (bench.plan(model, Site("resid_post", 2))).on(model):
            generated(model)
        assert torch.equal(generated(model, use_cache=False), want)
    assert not {"generate", "prepare_inputs_for_generation", "generate_batch"} & vars(model).keys()
    calls = []

    def own(self, *args, **kwargs):
        calls.append(args)
        return type(self).generate(self, *args, **kwargs)

    mine = model.generate = types.MethodType(own, model)
    with plan.on(model):
        assert torch.equal(generated(model), want)
        assert torch.equal(
            model.generate(None, model.generation_config, input_ids=IDS, max_new_tokens=4, do_sample=False), want
        )
    assert model.generate is mine and len(calls) == 2


def compiled_forms(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


COMPILED = {
    "torch.compile(model)": lambda model: torch.compile(model, backend="eager"),
    "model.compile()": lambda model: (model.compile(backend="eager"), model)[1],
    "model.forward = torch.compile(model.forward)": compiled_forms,
    "model.model.compile()": lambda model: (model.model.compile(backend="eager"), model)[1],
}


def test_a_compiled_model_is_steered_or_it_is_said(tiny_llama, bench, assert_same):
    """torch does not look at hooks again, once it has compiled what is inside the model."""
    one, other = (bench.plan(tiny_llama, site) * 3 for site in (Site("resid_post", 0), Site("z", 0, 2)))
    ids = IDS[:, :2]
    refused = []

    def check(plan) -> None:
        want = steered[plan]
        try:
            with plan.on(model):
                got = bench.logits(compiled, ids, use_cache=False)
            assert_same(got, want)
        except SilentNoOp as error:
            refused.append(form)
            assert "compiled before" in str(error)

    logging.disable()  # of every step of the compiler
    for form, compiled_by in COMPILED.items():  # noqa: B007
        model = copy.deepcopy(tiny_llama)
        model.model.layers = model.model.layers[:1]  # a compiler takes its time for each
        base, steered = bench.logits(model, ids), {}
        for plan in (one, other):
            with plan.on(model):
                steered[plan] = bench.logits(model, ids)
        compiled = compiled_by(model)
        assert_same(bench.logits(compiled, ids, use_cache=False), base)
        check(one)
        torch.compiler.reset()  # the cure that the message names
        with one.on(model):
            assert_same(bench.logits(compiled, ids, use_cache=False), steered[one])
        check(other)
        assert_same(bench.logits(compiled, ids, use_cache=False), base)
    logging.disable(logging.NOTSET)
    assert set(refused) == set(COMPILED), "torch looks at hooks now: say so in docs/ways-to-call.md"


def test_a_pass_unseen_in_another_thread_is_an_error_at_the_end_of_the_block(tiny_llama, plan):
    model = copy.deepcopy(tiny_llama)
    Anatomy.of(model)
    model.forward = lambda *args, **kwargs: None
    with pytest.raises(SilentNoOp, match="1 forward passes"), plan.on(model):
        run_threads(lambda: pytest.raises(SilentNoOp, model, IDS))


def run_threads(*targets) -> list:
    """Runs them at the same time; what each returned."""
    results: list = [None] * len(targets)
    barrier = threading.Barrier(len(targets))

    def run(k: int) -> None:
        barrier.wait()
        results[k] = targets[k]()

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(targets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_that_run_at_once_are_steered_each_at_its_own_positions(tiny_llama, plan):
    prompts = [IDS, torch.cat([IDS, NEW], dim=1), NEW]
    with plan.on(tiny_llama) as session:
        want = [generated(tiny_llama, input_ids=ids, max_new_tokens=12) for ids in prompts]
        count = session.forwards
        got = run_threads(*[lambda ids=ids: generated(tiny_llama, input_ids=ids, max_new_tokens=12) for ids in prompts])
        assert session.forwards == 2 * count
    assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))


def test_two_threads_cannot_attach_at_once(tiny_llama, plan):
    def attach():
        with pytest.raises(SteeringError, match="in another thread"), plan.on(tiny_llama):
            generated(tiny_llama)
        return True

    with plan.on(tiny_llama):
        assert run_threads(attach) == [True]
        generated(tiny_llama)


def test_blocks_that_overlap_are_an_error(tiny_llama, plan):
    first, second = plan.on(tiny_llama), plan.on(tiny_llama)
    first.__enter__()
    second.__enter__()
    generated(tiny_llama)
    with pytest.raises(SteeringError, match="overlapped"):
        first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert "generate" not in vars(tiny_llama)


class Stream:
    """A streamer that lets the generation go on when it is told to."""

    def __init__(self):
        self.started, self.go = threading.Event(), threading.Event()

    def put(self, value):
        self.started.set()
        self.go.wait(5)

    def end(self):
        pass


def test_a_block_stays_open_until_a_thread_has_generated(tiny_llama, plan):
    with plan.on(tiny_llama):
        want = generated(tiny_llama)
    stream, answers = Stream(), []
    with pytest.warns(UserWarning, match="read a streamer inside"), plan.on(tiny_llama):
        thread = threading.Thread(target=lambda: answers.append(generated(tiny_llama, streamer=stream)))
        thread.start()
        assert stream.started.wait(5)
        threading.Timer(0.05, stream.go.set).start()
    thread.join()
    assert torch.equal(answers[0], want)


def test_a_block_in_which_nothing_ran_or_nothing_was_answer_says_so(tiny_llama, bench, plan):
    with pytest.warns(UserWarning, match="ran no pass"), plan.on(tiny_llama):
        pass
    with pytest.warns(UserWarning, match="1 forward passes .* prompt_lengths"), plan.on(tiny_llama):
        bench.logits(tiny_llama)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with plan.on(tiny_llama):
            bench.decode(tiny_llama)  # the first pass held the prompt, and others followed
        with plan.on(tiny_llama, prompt_lengths=[6]), plan.spanning(Span("all")).on(tiny_llama):
            bench.logits(tiny_llama)


def test_a_cache_from_before_the_block_needs_prompt_lengths(tiny_llama, bench, plan):
    with torch.no_grad():
        cache = tiny_llama(IDS, use_cache=True).past_key_values
    with pytest.raises(BadSpan, match="6 tokens|9 tokens"), plan.on(tiny_llama):
        bench.logits(tiny_llama, NEW, past_key_values=copy.deepcopy(cache))
    with plan.on(tiny_llama, prompt_lengths=[6]):
        bench.logits(tiny_llama, NEW, past_key_values=cache)


def test_two_texts_decoded_by_hand_in_turn_keep_their_prompts(tiny_llama, bench, plan, assert_same):
    def tokens(ids, cut):
        cache = DynamicCache(config=tiny_llama.config)
        for part in (ids[:, :cut], *ids[:, cut:].split(1, dim=1)):
            with torch.no_grad():
                logits = tiny_llama(part, past_key_values=cache).logits
            yield logits  # outside: two interleaved generators would leave gradients off behind them

    whole = torch.cat([IDS, NEW], dim=1)
    with plan.on(tiny_llama):
        alone = [torch.cat(list(tokens(whole, cut)), dim=1) for cut in (4, 6)]
    with plan.on(tiny_llama):
        one, other = tokens(whole, 4), tokens(whole, 6)
        mixed = [[next(one), next(one)], [next(other), next(other)]]
        mixed = [torch.cat([*seen, *rest], dim=1) for seen, rest in zip(mixed, (one, other), strict=True)]
    for got, want in zip(mixed, alone, strict=True):
        assert_same(got, want)


def test_capture_below_a_plan_is_no_silent_plan(tiny_llama, bench):
    ids = IDS[0].numpy().astype(np.int64)
    text = Tokens(ids, 6, np.zeros(6, np.uint8), np.zeros(6, bool))
    with bench.plan(tiny_llama, Site("resid_post", 2)).on(tiny_llama):
        capture(Anatomy.of(tiny_llama), [text], [Site("resid_post", 0)])


def test_packed_passes_are_refused_at_once(tiny_llama, plan, bench):
    with pytest.raises(SteeringError, match="packs the tokens"), plan.on(tiny_llama):
        tiny_llama.generate_batch(inputs=[[7, 3, 52]])
    with plan.on(tiny_llama), pytest.raises(BadSpan, match="packs several"):
        bench.logits(tiny_llama, cu_seq_lens_q=torch.tensor([0, 4, 9]))
