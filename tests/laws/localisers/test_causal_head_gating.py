"""Causal head gating: roles, seeds, the clip of the gates, toggling, the contrastive form."""

import copy

import numpy as np
import pytest
import torch
from small_questions import CPU, PAIR, QUESTIONS, text

from trimtab.steering.causal.head_scales import scaled_logprobs, scales_of_one
from trimtab.steering.causal.question import Batch, Question
from trimtab.steering.errors import BadQuestion, BadRanking
from trimtab.steering.localisers._gate_fit import Stage, fit_gates, start
from trimtab.steering.localisers._toggling import toggle_curves
from trimtab.steering.localisers.causal_head_gating import ROLES, CausalHeadGating, roles
from trimtab.steering.localisers.relp import RelP
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site


def test_roles_are_read_off_both_gates():
    plus, minus = np.array([0.9, 0.1, 0.9, 0.1, 0.5]), np.array([0.9, 0.1, 0.1, 0.9, 0.49])
    assert [ROLES[k] for k in roles(plus, minus)] == [
        "facilitating", "interfering", "irrelevant", "inconsistent", "irrelevant",
    ]  # fmt: skip


def test_seeds_together_are_seeds_alone_and_start_apart(llama):
    few = {"steps": 4, "questions_per_step": 2}
    both = CausalHeadGating(seeds=3, **few).rank(llama, QUESTIONS)
    alone = CausalHeadGating(seeds=1, seed=2, **few).rank(llama, QUESTIONS)
    np.testing.assert_allclose(alone.extra["g_plus"][0], both.extra["g_plus"][2], atol=1e-3)
    assert np.abs(both.extra["g0"][0] - both.extra["g0"][1]).max() > 0.2


def test_the_nudge_moves_gates_that_do_nothing_to_both_ends_of_the_clip():
    """Without a loss: lambda > 0 drives gates to 1, lambda < 0 to 0, and no further than where theta is clipped and
    Adam's momentum carries it (a sum of 0.9^k, so ten steps of 0.5)."""
    theta = start((2, 2, 3), 0)
    for nudge, end in ((0.1, 4.0), (-0.1, -4.0)):
        moved, _ = fit_gates(theta, lambda g, _: 0 * g.sum((1, 2)), Stage(200, (0.5, 0.05), nudge))
        assert (moved * np.sign(end) > 3.5).all() and (moved * np.sign(end) < 4 + 10 * 0.5).all()
    assert torch.equal(theta, start((2, 2, 3), 0)), "the given gates are not changed"


@pytest.mark.parametrize(("nudge", "end"), [(0.1, 1), (-0.1, -1)])
def test_a_gate_far_on_the_wrong_side_is_brought_back_unless_there_is_a_dead_zone(nudge, end):
    """The published clip leaves it where an earlier stage put it, and its role is then nobody's measurement."""
    lost = torch.full((1, 1, 2), -6.0 * end)

    def nothing(gates, _):
        return 0 * gates.sum((1, 2))

    found, stuck = (fit_gates(lost, nothing, Stage(200, (0.5, 0.05), nudge, dead_zone=z))[0] for z in (False, True))
    assert (found * end > 3.5).all() and torch.equal(stuck, lost)


def test_each_seed_s_gradient_is_clipped_by_itself():
    """A seed with a huge loss must not slow its neighbours."""

    def loss(gates, _):
        weights = torch.tensor([1e-3, 1e3])[: len(gates)]
        return (gates - 0.2).pow(2).sum((1, 2)) * weights

    together, _ = fit_gates(start((2, 2, 2), 0), loss, Stage(5, (0.1, 0.1)))
    alone, _ = fit_gates(start((1, 2, 2), 0), loss, Stage(5, (0.1, 0.1)))
    torch.testing.assert_close(together[:1], alone)


@pytest.fixture(scope="module")
def known(build_tiny):
    """A model whose heads 0.0 and 1.1 write nothing, and its ranking. The answers are the model's own, so that no head
    can be expected to interfere much."""
    model = copy.deepcopy(build_tiny("llama/plain"))
    anatomy = Anatomy.of(model)
    d = anatomy.d_head
    with torch.no_grad():
        for block, head in ((0, 0), (1, 1)):
            anatomy.place(Site("z", block)).module.weight[:, head * d : (head + 1) * d] = 0
        prompts = [text(7, 3, 52, 11, 30), text(8, 3, 41, 11), text(17, 4, 23), text(9, 9, 14, 6)]
        questions = [Question(p, (int(model(torch.tensor(p.ids)[None]).logits[0, -1].argmax()),)) for p in prompts]
    method = CausalHeadGating(seeds=3, steps=60, nudge=0.3, questions_per_step=4)
    return anatomy, questions, method.rank(anatomy, questions)


def test_heads_that_write_nothing_are_irrelevant_in_every_seed(known):
    _, _, ranking = known
    for unit in (Site("z", 0, 0), Site("z", 1, 1)):
        k = ranking.units.index(unit)
        assert ranking.extra["frequency"][:, k].tolist() == [0, 0, 1, 0]
    assert set(ranking.labels) & {"facilitating"}, "else everything is irrelevant"


def test_gates_fit_the_answers_and_toggling_tells_roles_apart(known):
    anatomy, questions, ranking = known
    nll = ranking.extra["nll"]
    assert nll[0, -1].max() < nll[0, 0].min()
    curves = {c.score: c for c in toggle_curves(anatomy, ranking, questions, (1, 2))}
    assert curves["facilitation"].mean[-1] < -0.05
    assert abs(curves["irrelevance"].mean[0]) < 1e-5, "a head that writes nothing is the most irrelevant"
    assert curves["interference"].mean[-1] > curves["facilitation"].mean[-1]
    with pytest.raises(BadRanking, match="99 heads cannot be toggled"):
        toggle_curves(anatomy, ranking, questions, (99,))


def test_a_seed_that_did_not_fit_is_kept_but_does_not_count(known):
    """One update from random gates leaves some seeds far above the model's own loss."""
    anatomy, questions, _ = known
    short = {"seeds": 4, "steps": 1, "questions_per_step": 4}
    loose = CausalHeadGating(**short, slack=99.0).rank(anatomy, questions)
    assert loose.extra["fitted"].all() and loose.extra["open_nll"] > 0
    ends = loose.extra["nll"][0, -1] - loose.extra["open_nll"]
    strict = CausalHeadGating(**short, slack=float(np.median(ends))).rank(anatomy, questions)
    kept = strict.extra["fitted"].astype(bool)
    assert 0 < kept.sum() < 4 and np.array_equal(kept, ends <= np.median(ends))
    np.testing.assert_allclose(strict.values, strict.extra["g_minus"][kept].mean(0), rtol=1e-6)
    none = CausalHeadGating(**short, slack=-99.0).rank(anatomy, questions)
    assert not none.extra["fitted"].any() and np.array_equal(none.values, loose.values)


def test_toggling_needs_fitted_gates(llama):
    with pytest.raises(BadRanking, match=r"gates of causal_head_gating; this ranking is by relp"):
        toggle_curves(llama, RelP().rank(llama, QUESTIONS), QUESTIONS, (1,))


def test_gated_log_probabilities_come_in_the_questions_order(llama):
    gates = torch.stack([scales_of_one(llama)[0], 0 * scales_of_one(llama)[0]])
    got = scaled_logprobs(llama, gates, QUESTIONS, budget=8)
    batch = Batch.of(QUESTIONS, PAIR, CPU)
    with torch.no_grad():
        np.testing.assert_allclose(got[0], batch.logprob(batch.logits(llama.model)).numpy(), rtol=1e-4)
    assert np.abs(got[1] - got[0]).min() > 1e-3


def test_contrastive_gates_keep_one_answer_and_lose_the_other(llama):
    keep = [Question(q.clean, (11,)) for q in QUESTIONS]
    lose = [Question(q.clean, (44,)) for q in QUESTIONS]
    method = CausalHeadGating(seeds=2, steps=60, questions_per_step=2)
    ranking = method.contrast(llama, keep, lose, nudge=0.1)
    gates = torch.from_numpy(ranking.extra["gates"]).reshape(2, llama.n_layers, llama.n_heads)
    margin = scaled_logprobs(llama, gates, keep) - scaled_logprobs(llama, gates, lose)
    plain = scaled_logprobs(llama, scales_of_one(llama), keep) - scaled_logprobs(llama, scales_of_one(llama), lose)
    assert (margin.mean(1) > plain.mean(1) + 0.5).all() and ranking.settings["nudge"] == 0.1
    with pytest.raises(BadQuestion, match="each needs its partner"):
        method.contrast(llama, keep, lose[:1], nudge=0.1)
