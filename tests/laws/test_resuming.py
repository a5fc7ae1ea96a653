"""Passes that begin in the middle of the model give the logits of whole passes, to the bit, in every family."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.steering.gates.first import First
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.resuming import can_resume
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.price.rollouts import roll_out, rolled_divergences
from trimtab.steering.running.resume import Streams, untouched_blocks
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding


def texts(seed: int = 0) -> list[Tokens]:
    """Two completions of each of three prompts of different lengths; the last one has none."""
    stream, made = np.random.default_rng(seed), []
    for length, ends in ((4, (3, 5)), (9, (3, 5)), (6, (4, 0))):
        prompt = stream.integers(2, 57, length)
        for n in ends:
            ids = np.concatenate([prompt, stream.integers(2, 57, n)])
            made.append(Tokens(ids, length, np.zeros(length + n, np.uint8), np.zeros(length + n, bool)))
    return made


def plan_at(anatomy: Anatomy, site: Site, span: str) -> SteeringPlan:
    vector = torch.randn(anatomy.width(site), generator=torch.Generator().manual_seed(7))
    return SteeringPlan((Intervention(site, Add(vector), span),))


def logits(scorer: Scorer, plan: SteeringPlan | None, seed: int = 0) -> dict[int, torch.Tensor]:
    return {forced.example: forced.logits for forced in scorer.forced(texts(seed), plan)}


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> None:
    assert one.keys() == other.keys() == set(range(6))
    assert all(torch.equal(one[k], other[k]) for k in one)


def check(model, span: str) -> None:
    anatomy = Anatomy.of(model)
    assert can_resume(anatomy, model)
    last = anatomy.n_layers - 1
    names = ("resid_post.0", "z.1", f"resid_post.{last}")
    plans = [None, *(plan_at(anatomy, Site.parse(name), span) for name in names)]
    stored, whole = Scorer(model), Scorer(model, streams=Streams(keep=0))
    wanted = [logits(whole, plan) for plan in plans]
    for number in (0, 1, 2, 3, 3, 2, 0):  # upwards, where passes begin at stored depths below, and down again
        same(logits(stored, plans[number]), wanted[number])
    logits(stored, plans[2], seed=1)  # other texts in between
    same(logits(stored, plans[2]), wanted[2])
    assert stored.streams.bytes > 0 == whole.streams.bytes


def test_resumed_passes_give_the_logits_of_whole_ones(tiny):
    check(tiny, "all")


def test_resumed_passes_give_the_logits_of_whole_ones_in_like_families(like):
    check(like, "all")


@pytest.mark.parametrize("span", ["answer", "last", "first:3"])
def test_resumed_passes_give_the_logits_of_whole_ones_for_every_kind_of_span(tiny_llama, span):
    check(tiny_llama, span)


def check_rollouts(model) -> None:
    """Answers written behind prompts that ran once, and read again from the middle, cost what whole passes say."""
    anatomy, decoding = Anatomy.of(model), Decoding(max_new_tokens=4)
    prompts = [text.prompt for text in texts()[::2]]
    for span in ("answer", "all"):
        plans = [plan_at(anatomy, Site("resid_post", block), span) for block in (0, 1)]
        together = rolled_divergences(Scorer(model), plans, prompts, decoding)
        for plan, spent in zip(plans, together, strict=True):
            whole = Scorer(model, streams=Streams(keep=0))
            written = roll_out(model, plan, prompts, decoding)
            wanted = divergences(whole, written, steered_from_base(plan))
            np.testing.assert_allclose(np.concatenate(spent), np.concatenate(wanted), rtol=1e-3, atol=1e-5)


def test_rollouts_cost_what_whole_passes_say(tiny):
    check_rollouts(tiny)


def test_rollouts_cost_what_whole_passes_say_in_like_families(like):
    check_rollouts(like)


def test_what_steered_models_write_is_read_from_the_first_changed_block(tiny_llama, ran):
    scorer, plan = Scorer(tiny_llama), plan_at(Anatomy.of(tiny_llama), Site("resid_post", 1), "answer")
    prompts, decoding = [text.prompt for text in texts()[::2]], Decoding(max_new_tokens=4)
    rolled_divergences(scorer, [plan], prompts, decoding)
    assert ran == [0, 1, 2] * (1 + 4) + [2]  # prompts, steps, and the base model's reading
    ran.clear()
    rolled_divergences(scorer, [plan], prompts, decoding)
    assert ran == [0, 1, 2] * 4 + [2]


@pytest.fixture
def ran(tiny_llama):
    """Numbers of the blocks that ran, pass after pass."""
    numbers: list[int] = []
    anatomy = Anatomy.of(tiny_llama)
    can_resume(anatomy, tiny_llama)
    handles = [
        anatomy.place(Site("attn_out", b)).module.register_forward_hook(lambda *_, b=b: numbers.append(b))
        for b in range(anatomy.n_layers)
    ]
    yield numbers
    for handle in handles:
        handle.remove()


def test_blocks_below_the_first_edit_run_once(tiny_llama, ran):
    scorer, plan = Scorer(tiny_llama), plan_at(Anatomy.of(tiny_llama), Site("resid_post", 1), "answer")
    logits(scorer, None)
    ran.clear()
    logits(scorer, plan)
    assert ran == [0, 1, 2]
    ran.clear()
    for strength in (0.5, 2.0):
        logits(scorer, plan.scaled(strength))
    assert ran == [2, 2]


def test_the_second_of_two_plans_in_step_begins_where_the_first_ones_edits_do(tiny_llama, ran):
    scorer, plan = Scorer(tiny_llama), plan_at(Anatomy.of(tiny_llama), Site("resid_post", 1), "answer")
    logits(scorer, None)
    for pair in ((plan, None), (None, plan)):
        ran.clear()
        scorer.streams._batches.clear()
        assert len(list(scorer.both(texts(), *pair))) == 6
        assert ran == [0, 1, 2, 2]


def test_streams_are_forgotten_beyond_their_bytes(tiny_llama, ran):
    scorer, plan = Scorer(tiny_llama), plan_at(Anatomy.of(tiny_llama), Site("resid_post", 1), "answer")
    logits(scorer, plan)
    few = Scorer(tiny_llama, streams=Streams(keep=scorer.streams.bytes))
    for seed in (0, 1):
        logits(few, plan, seed)
    assert few.streams.bytes <= scorer.streams.bytes
    ran.clear()
    logits(few, plan, seed=1)
    assert ran == [2]
    logits(few, plan, seed=0)
    assert ran == [2, 0, 1, 2]


def test_how_many_blocks_a_plan_leaves_alone(tiny_llama):
    anatomy = Anatomy.of(tiny_llama)
    plan = plan_at(anatomy, Site("resid_post", 1), "answer")
    gated = Intervention(Site("resid_post", 1), Gated(plan.interventions[0].move, First(3)), "answer")
    assert untouched_blocks(anatomy, None) == untouched_blocks(anatomy, plan.scaled(0)) == 3
    assert untouched_blocks(anatomy, plan) == 2
    assert untouched_blocks(anatomy, plan + plan_at(anatomy, Site("resid_mid", 1), "answer")) == 1
    assert untouched_blocks(anatomy, plan + plan_at(anatomy, Site("embed"), "answer")) == 0
    assert untouched_blocks(anatomy, SteeringPlan((gated,))) == 0


class Shared(nn.Module):
    """An MLP that adds what the first block's MLP gave, as families do whose blocks share state."""

    def __init__(self, mlp: nn.Module, left: dict[str, torch.Tensor], writes: bool):
        super().__init__()
        self.mlp, self.left, self.writes = mlp, left, writes

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        added = self.mlp(h)
        if self.writes:
            self.left["first"] = added
        return added if self.writes else added + self.left["first"]


def test_a_model_whose_blocks_share_more_than_the_stream_runs_whole(tiny_llama):
    model, left = copy.deepcopy(tiny_llama), {}
    for number in (0, 2):
        model.model.layers[number].mlp = Shared(model.model.layers[number].mlp, left, writes=number == 0)
    assert not can_resume(Anatomy(model, Anatomy.of(tiny_llama).family), model)


def test_a_model_that_was_compiled_runs_whole(tiny_llama):
    anatomy, compiled = Anatomy.of(tiny_llama), torch.compile(tiny_llama)
    assert can_resume(anatomy, tiny_llama) and not can_resume(anatomy, compiled)
    model = copy.deepcopy(tiny_llama)
    model.model.layers[1].compile()
    assert not can_resume(Anatomy(model, anatomy.family), model)
