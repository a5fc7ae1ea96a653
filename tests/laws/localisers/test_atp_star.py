"""AtP*: queries, keys and dropped gradients against brute force."""

import numpy as np
import torch
from small_questions import CPU, PAIR, QUESTIONS

from trimtab.steering.causal.gradients import slopes
from trimtab.steering.causal.patching import activations
from trimtab.steering.causal.question import Batch
from trimtab.steering.localisers._query_key import key_effects, query_effects
from trimtab.steering.localisers.atp_star import AtPStar
from trimtab.steering.localisers.attribution_patching import AttributionPatching
from trimtab.steering.localisers.base import heads
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.site import Site


def pattern_of(query, key, mask):
    return (query @ key.mT + mask).softmax(-1)


def test_the_key_form_is_brute_force_and_so_is_the_query_form():
    draw = torch.Generator().manual_seed(0)
    q, k, q2, k2 = (torch.randn(2, 3, 7, 4, generator=draw, dtype=torch.float64) * 2 for _ in range(4))
    slope = torch.randn(2, 3, 7, 7, generator=draw, dtype=torch.float64)
    mask = torch.full((7, 7), -1e30, dtype=torch.float64).triu(1)
    pattern = pattern_of(q, k, mask)
    shift = (q @ (k2 - k).mT).masked_fill(mask < 0, 0.0)
    got_k, got_q = key_effects(pattern, shift, slope), query_effects(pattern, pattern_of(q2, k, mask), slope)
    for t in range(7):
        one_k, one_q = k.clone(), q.clone()
        one_k[:, :, t], one_q[:, :, t] = k2[:, :, t], q2[:, :, t]
        want = ((pattern_of(q, one_k, mask) - pattern) * slope).sum((-1, -2))
        torch.testing.assert_close(got_k[..., t], want, rtol=1e-10, atol=1e-12)
        want = ((pattern_of(one_q, k, mask) - pattern) * slope).sum((-1, -2))
        torch.testing.assert_close(got_q[..., t], want, rtol=1e-10, atol=1e-12)


def test_a_saturated_softmax_hides_a_key_from_the_gradient_and_not_from_the_exact_form():
    """The false negative the QK fix exists for."""
    scores = torch.tensor([[[[30.0, 0.0]]]])
    pattern, slope = scores.softmax(-1), torch.tensor([[[[0.0, 1.0]]]])
    shift = torch.tensor([[[[0.0, 40.0]]]])
    linear = (pattern * (slope - (pattern * slope).sum(-1, keepdim=True)) * shift).sum()
    assert linear < 1e-6 and key_effects(pattern, shift, slope)[0, 0, 1] > 0.99


def test_nodes_with_no_block_behind_them_are_those_of_attribution_patching(anatomy):
    """Dropping other blocks' gradients cannot touch the last block's nodes."""
    star = AtPStar().rank(anatomy, QUESTIONS)
    plain = AttributionPatching().rank(anatomy, QUESTIONS)
    last = Site("mlp_out", anatomy.n_layers - 1)
    np.testing.assert_allclose(star.value(last), np.abs(plain.extra["per_question"]).mean(0)[-1], rtol=1e-3, atol=1e-5)


def test_dropping_gradients_is_removing_what_flows_through_one_block(llama):
    """By hand: slopes with one block's writes cut off from its inputs, for two blocks of three."""
    batch, unit = Batch.of(QUESTIONS, PAIR, CPU), Site("mlp_out", 0)
    gap = _gap(llama, batch, unit)
    sizes = []
    for block in (1, 2):
        with frozen(llama.model):
            found = _slope_without(llama, batch, unit, block)
        sizes.append((gap * found).sum((1, 2)).abs())
    got = AtPStar().rank(llama, QUESTIONS).extra["per_question"][:, len(heads(llama))]
    np.testing.assert_allclose(got, (sum(sizes) / 2).numpy(), rtol=1e-3)


def _gap(anatomy, batch, unit):
    clean, dirty = (activations(anatomy, batch, [unit], side)[0][unit] for side in ("clean", "corrupted"))
    return clean - dirty


def _slope_without(anatomy, batch, unit, block):
    from_here = [m.register_forward_hook(lambda _, __, out: _detached(out)) for m in (
        anatomy.place(Site("attn_out", block)).module, anatomy.place(Site("mlp_out", block)).module)]  # fmt: skip
    try:
        return slopes(anatomy, batch, [unit], "corrupted").slopes[unit]
    finally:
        for handle in from_here:
            handle.remove()


def _detached(out):
    return (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()
