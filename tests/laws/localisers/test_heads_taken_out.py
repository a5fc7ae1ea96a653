"""Indirect effect, SHIPS and head scaling: heads replaced, ablated or scaled."""

import numpy as np
import pytest
import torch
from small_questions import CPU, PAIR, QUESTIONS, text

from trimtab.steering.causal.head_scales import ablated_heads, scaled_heads, scales_of_one
from trimtab.steering.causal.patching import Patch, activations, patched, whole_sites
from trimtab.steering.causal.question import Batch, Question
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.activation_patching import ActivationPatching
from trimtab.steering.localisers.base import heads
from trimtab.steering.localisers.head_scaling import HeadScaling
from trimtab.steering.localisers.indirect_effect import IndirectEffect
from trimtab.steering.localisers.ships import Ships, angle
from trimtab.steering.model.attention import attending
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.site import Site


def test_for_one_question_the_indirect_effect_is_denoising_at_the_last_token(anatomy):
    one = QUESTIONS[:1]
    batch, units = Batch.of(one, [0], CPU), heads(anatomy)
    clean, _ = activations(anatomy, batch, whole_sites(units))
    _, logits = activations(anatomy, batch, (), "corrupted")
    want = patched(anatomy, batch, units, Patch(clean, "corrupted", last_only=True)) - batch.metric(logits)
    got = IndirectEffect(measure="metric").rank(anatomy, one)
    np.testing.assert_allclose(got.values, want[:, 0].numpy(), atol=1e-5)
    assert got.extra["mean_output"].shape == (len(units), anatomy.d_head)


def test_a_prompt_of_one_token_has_uniform_attention_already(anatomy):
    one = [Question(text(7), (4,))]
    np.testing.assert_allclose(Ships().rank(anatomy, one).values, 0, atol=1e-6)
    assert Ships(operator="zero").rank(anatomy, one).values.min() > 0


def test_uniform_attention_averages_the_values_a_query_may_see(anatomy):
    """z of an ablated head is the mean of its values; of a head that is left alone it is as it was. The sliding window
    of mistral counts as what may be seen."""
    batch, site = Batch.of(QUESTIONS, PAIR, CPU), Site("z", 0)
    chosen = torch.zeros(1, anatomy.n_layers, anatomy.n_heads, dtype=torch.bool)
    chosen[:, 0, 2] = True
    looks = {}
    with torch.no_grad(), attending(anatomy, lambda look: looks.__setitem__(look.block, look)):
        before, _ = activations(anatomy, batch, [site])
    with ablated_heads(anatomy, chosen, "uniform"):
        after, _ = activations(anatomy, batch, [site])
    seen = (looks[0].mask[0, 0] == 0).float() if looks[0].mask.shape[0] == 1 else (looks[0].mask[:, 0] == 0).float()
    want = (seen / seen.sum(-1, keepdim=True)) @ looks[0].value[:, 2]
    d = anatomy.d_head
    torch.testing.assert_close(after[site][..., 2 * d : 3 * d], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[site][..., : 2 * d], before[site][..., : 2 * d], rtol=1e-4, atol=1e-5)


def test_sahara_starts_with_the_best_head_and_takes_none_twice(llama):
    ships = Ships(form="dataset", operator="zero")
    found = ships.sahara(llama, QUESTIONS, 3)
    assert found[0][0] == ships.rank(llama, QUESTIONS).top(1)[0] and len({unit for unit, _ in found}) == 3
    alone = torch.zeros(1, llama.n_layers, llama.n_heads, dtype=torch.bool)
    for unit, _ in found[:2]:
        alone[0, unit.block, unit.head] = True
    state = ships._states(llama, QUESTIONS, torch.cat([torch.zeros_like(alone), alone]))
    assert found[1][1] == pytest.approx(angle(state[0], state[1]), abs=1e-3)


def test_an_angle_is_the_principal_angle():
    first, turn = np.diag([3.0, 1, 0.5]), np.radians(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    assert angle(first, rotation @ first) == pytest.approx(30)
    assert angle(first, first @ rotation) == pytest.approx(0, abs=1e-5), "the space of features may turn"
    assert angle(first, rotation @ first, 3) == pytest.approx(0, abs=1e-4), "the whole space turned into itself"


def test_scaling_a_head_by_zero_is_zero_ablation(llama):
    got = HeadScaling(factors=(0.0, 1.5)).rank(llama, QUESTIONS)
    want = ActivationPatching("noising", "zero").rank(llama, QUESTIONS).only("z")
    np.testing.assert_allclose(got.values, -want.values, rtol=1e-3, atol=1e-5)
    small = HeadScaling(factors=(1.01,)).rank(llama, QUESTIONS)
    gates = scales_of_one(llama).requires_grad_()
    batch = Batch.of(QUESTIONS, PAIR, CPU)
    with frozen(llama.model), scaled_heads(llama, gates):
        batch.metric(batch.logits(llama.model)).mean().backward()
    np.testing.assert_allclose(small.values, 0.01 * gates.grad.flatten().numpy(), rtol=0.1, atol=1e-4)
    with pytest.raises(BadQuestion, match="not 1, which changes nothing"):
        HeadScaling(factors=(1.0,))
