"""Laws of position over every family and span: the cache, batching, padding and beams change nothing.

The plans add at the residual and at one head, so both kinds of hook are under every law.
"""

import pytest
import torch

from trimtab.steering.errors import BadPlan, BadSpan
from trimtab.steering.model.site import Site
from trimtab.steering.plans.fold import fold
from trimtab.steering.plans.plan import SteeringPlan, steer_rows

SPANS = ("all", "prompt", "generated", "answer", "last", "first:4", "after:4", "after:7")
ROWS = ([7, 3, 52, 11, 30, 3], [18, 44, 9], [5, 6, 33, 21])
BEAMS = ("llama", "gpt2", "gemma3_text", "opt", "mixtral")


@pytest.fixture(scope="module")
def plan_of(tiny, bench):
    return lambda span, size=1.0: two_sites(tiny, bench, span) * size


def two_sites(model, bench, span: str) -> SteeringPlan:
    steps = (bench.step(model, Site("resid_post", 1), span=span), bench.step(model, Site("z", 1, 2), span=span))
    return SteeringPlan(steps)


def padded(rows, side: str) -> dict[str, torch.Tensor]:
    """ids, mask and positions of rows padded on one side with a token that is also text."""
    width = max(map(len, rows))
    gaps = [width - len(row) for row in rows]
    left = side == "left"
    ids = torch.tensor([[3] * g * left + row + [3] * g * (not left) for row, g in zip(rows, gaps, strict=True)])
    mask = torch.tensor([[0] * g * left + [1] * len(r) + [0] * g * (not left) for r, g in zip(rows, gaps, strict=True)])
    return {"ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def test_token_by_token_is_at_once(tiny, bench, plan_of, assert_same):
    """One row of the batch per span."""
    plans, rows, lengths = [plan_of(span) for span in SPANS], bench.ids.expand(len(SPANS), -1), [6] * len(SPANS)
    with steer_rows(tiny, plans):
        by_token = bench.decode(tiny, rows, prompt=6)
    with steer_rows(tiny, plans, lengths):
        at_once = bench.logits(tiny, rows)
        chunked = bench.decode(tiny, rows, prompt=3)  # only prompt_lengths can know where this prompt ends
    assert_same(by_token, at_once)
    assert_same(chunked, at_once)
    for k, plan in enumerate(plans[:2]):
        with plan.on(tiny, prompt_lengths=[6]):
            assert_same(bench.logits(tiny)[0], at_once[k])


def test_generation_with_a_cache_is_generation_without(tiny, bench, plan_of, assert_same):
    """One row of the batch per span."""
    with steer_rows(tiny, [plan_of(span) for span in SPANS]) as session:
        tokens, logits = bench.generate(tiny, bench.ids.expand(len(SPANS), -1), n=3)
        assert session.forwards == 3
        slow_tokens, slow_logits = bench.generate(tiny, bench.ids.expand(len(SPANS), -1), n=3, use_cache=False)
    assert torch.equal(tokens, slow_tokens)
    assert_same(logits, slow_logits)


@pytest.mark.parametrize("span", ("last", "after:5"))
def test_left_padded_rows_generate_as_alone(tiny, bench, plan_of, assert_same, span):
    batch = padded(ROWS, "left")
    with plan_of(span).on(tiny):
        tokens, logits = bench.generate(tiny, batch["ids"], n=3, attention_mask=batch["attention_mask"])
        alone = [bench.generate(tiny, torch.tensor([row]), n=3) for row in ROWS]
    assert torch.equal(tokens, torch.cat([t for t, _ in alone]))
    assert_same(logits, torch.cat([x for _, x in alone]))


@pytest.mark.parametrize("side", ("left", "right"))
@pytest.mark.parametrize("span", ("answer", "after:2"))
def test_padded_rows_score_as_alone(tiny, bench, plan_of, assert_same, span, side):
    batch, lengths = padded(ROWS, side), [4, 2, 3]
    with plan_of(span).on(tiny, prompt_lengths=lengths):
        together = bench.logits(tiny, **batch)
    for k, row in enumerate(ROWS):
        with plan_of(span).on(tiny, prompt_lengths=lengths[k : k + 1]):
            alone = bench.logits(tiny, torch.tensor([row]))
        assert_same(together[k][batch["attention_mask"][k].bool()], alone[0])


def test_rows_under_their_own_plans_are_rows_alone(tiny, bench, plan_of, assert_same):
    plans = [plan_of("answer"), None, plan_of("all", -2.0)]
    batch = padded(ROWS, "left")
    with steer_rows(tiny, plans):
        logits = bench.generate(tiny, batch["ids"], n=3, attention_mask=batch["attention_mask"])[1]
    for k, (plan, row) in enumerate(zip(plans, ROWS, strict=True)):
        with (plan or SteeringPlan(())).on(tiny):
            assert_same(logits[k], bench.generate(tiny, torch.tensor([row]), n=3)[1][0])


@pytest.mark.parametrize("span", ("all", "generated", "answer", "after:7"))
@pytest.mark.parametrize("family", BEAMS)
def test_beams_with_a_cache_are_beams_without(build_tiny, bench, family, span):
    model, batch = build_tiny(family), padded(ROWS, "left")
    beams = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "attention_mask": batch["attention_mask"]}
    with two_sites(model, bench, span).on(model):
        cached = model.generate(input_ids=batch["ids"], **beams)
        assert torch.equal(cached, model.generate(input_ids=batch["ids"], use_cache=False, **beams))


@pytest.mark.parametrize("family", ("llama", "gpt2", "opt"))
def test_beams_under_hooks_are_beams_of_the_folded_model(build_tiny, bench, family):
    model, batch = build_tiny(family), padded(ROWS, "left")
    beams = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "attention_mask": batch["attention_mask"]}
    plan = two_sites(model, bench, "all")
    with plan.on(model):
        hooked = model.generate(input_ids=batch["ids"], **beams)
    assert torch.equal(hooked, fold(plan, model).generate(input_ids=batch["ids"], **beams))
    assert not torch.equal(hooked, model.generate(input_ids=batch["ids"], **beams)), "the plan should matter here"


def test_two_generations_in_one_block_each_have_their_own_prompt(tiny_llama, bench, assert_same):
    plan, first, second = two_sites(tiny_llama, bench, "generated"), bench.ids, bench.ids[:, :4]
    with plan.on(tiny_llama):
        bench.generate(tiny_llama, first)
        again = bench.generate(tiny_llama, second)[1]
    with plan.on(tiny_llama):
        assert_same(again, bench.generate(tiny_llama, second)[1])


def test_a_batch_that_row_plans_do_not_divide_is_refused(tiny_llama, bench):
    with (
        pytest.raises(BadPlan, match="2 row plans .* 3 rows"),
        steer_rows(tiny_llama, [None, two_sites(tiny_llama, bench, "all")]),
    ):
        bench.logits(tiny_llama, bench.ids.expand(3, -1))


def test_prompt_lengths_for_other_rows_are_refused(tiny_llama, bench):
    plan = two_sites(tiny_llama, bench, "answer")
    with pytest.raises(BadSpan, match="2 rows but the batch has 3"), plan.on(tiny_llama, prompt_lengths=[4, 4]):
        bench.logits(tiny_llama, bench.ids.expand(3, -1))
