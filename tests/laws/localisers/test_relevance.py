"""Relevance rules and RelP: what the backward pass shares out, and what it leaves alone."""

import numpy as np
import pytest
import torch
from small_questions import CPU, PAIR, QUESTIONS

from trimtab.steering.causal.gradients import slopes
from trimtab.steering.causal.head_scales import scaled_heads, scales_of_one
from trimtab.steering.causal.question import Batch
from trimtab.steering.causal.relevance import relevance_rules
from trimtab.steering.errors import SilentNoOp, UnknownName, UnsupportedModel
from trimtab.steering.localisers.attribution_patching import AttributionPatching
from trimtab.steering.localisers.relp import RelP
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import attending
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.site import Site

EVERY = ("norm", "activation", "half", "attention")


def relevance(anatomy: Anatomy, site: Site, rules: tuple[str, ...]):
    found = slopes(anatomy, Batch.of(QUESTIONS, PAIR, CPU), [site], surgery=relevance_rules(anatomy, rules))
    return (found.values[site] * found.slopes[site]).sum((1, 2)), found.metric


def test_relevance_rules_leave_the_forward_pass_unchanged_to_the_bit(tiny):
    anatomy, batch = Anatomy.of(tiny), Batch.of(QUESTIONS, PAIR, CPU)
    rules = ("norm", "activation", "half") if anatomy.family.down_proj else ("norm", "activation")
    with frozen(tiny):
        want = batch.logits(tiny)
        with relevance_rules(anatomy, rules):
            assert torch.equal(batch.logits(tiny), want)


def test_relevance_at_the_embedding_is_the_metric_where_nothing_leaks(plain):
    """Conservation: without biases every rule together shares the logit difference out among the tokens, exactly."""
    got, want = relevance(plain, Site("embed"), EVERY)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    leaking, _ = relevance(plain, Site("embed"), ())
    assert not torch.allclose(leaking, want, rtol=0.05), "else conservation shows nothing"


@pytest.mark.parametrize("rule", ["norm", "activation", "half", "attention"])
def test_no_rule_can_be_missing_from_conservation(build_tiny, rule):
    """Each rule is active: without it relevance leaks (RelP's released demo lost one silently)."""
    plain = Anatomy.of(build_tiny("llama/plain"))
    got, want = relevance(plain, Site("embed"), tuple(r for r in EVERY if r != rule))
    assert not torch.allclose(got, want, rtol=0.02)


def test_the_slope_of_an_activation_is_its_value_over_its_input(anatomy):
    module, seen = anatomy.activation_functions[0], {}
    handle = module.register_forward_pre_hook(lambda _, args: seen.__setitem__("x", args[0]))
    try:
        with frozen(anatomy.model), relevance_rules(anatomy, ("activation",)):
            Batch.of(QUESTIONS, PAIR, CPU).logits(anatomy.model)
            x = seen["x"].detach().clone().requires_grad_()
            y = module(x)
            (slope,) = torch.autograd.grad(y.sum(), [x])
    finally:
        handle.remove()
    torch.testing.assert_close(slope, (y / x).detach(), rtol=1e-4, atol=1e-5)


def test_half_the_relevance_goes_to_each_factor(llama):
    before, after = (_slopes_of_factors(llama, rules) for rules in ((), ("half",)))
    for whole, half in zip(before, after, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(half, whole / 2)


def _slopes_of_factors(anatomy, rules):
    """Derivatives by the outputs of the last MLP's two projections, act(gate) and up being what is multiplied."""
    mlp, held = anatomy.blocks[-1].mlp, []
    handles = [m.register_forward_hook(lambda _, __, out: held.append(out)) for m in (mlp.act_fn, mlp.up_proj)]
    try:
        batch = Batch.of(QUESTIONS, PAIR, CPU)
        with (
            frozen(anatomy.model),
            scaled_heads(anatomy, scales_of_one(anatomy).requires_grad_()),
            relevance_rules(anatomy, rules),
        ):
            metric = batch.metric(batch.logits(anatomy.model)).sum()
        return torch.autograd.grad(metric, held)
    finally:
        for handle in handles:
            handle.remove()


def test_no_gradient_reaches_the_pattern_under_the_attention_rule(llama):
    leaves = []

    def leaf(look):
        leaves.append(look.query.detach().clone().requires_grad_())
        scores = look.scores(leaves[-1], look.key)
        return scores.softmax(-1)

    batch = Batch.of(QUESTIONS, PAIR, CPU)
    with frozen(llama.model), attending(llama, leaf):
        metric = batch.metric(batch.logits(llama.model)).sum()
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(metric, leaves))
    site = Site("resid_pre", 2)
    through = slopes(llama, batch, [site]).slopes[site]
    constant = slopes(llama, batch, [site], surgery=relevance_rules(llama, ("attention",))).slopes[site]
    assert not torch.allclose(through, constant, rtol=0.01)


def test_without_rules_relp_is_attribution_patching(anatomy):
    got, want = RelP(rules=()).rank(anatomy, QUESTIONS), AttributionPatching().rank(anatomy, QUESTIONS)
    np.testing.assert_allclose(got.values, want.values, rtol=1e-5, atol=1e-6)


def test_rules_that_cannot_or_did_not_act_are_errors(llama, build_tiny):
    with pytest.raises(SilentNoOp, match="norm, half never acted"), relevance_rules(llama, ("norm", "half")):
        pass
    with pytest.raises(UnknownName, match="did you mean 'norm'"), relevance_rules(llama, ("norms",)):
        pass
    experts = Anatomy.of(build_tiny("mixtral"))
    with pytest.raises(UnsupportedModel, match="routes tokens to experts"), relevance_rules(experts, ("half",)):
        pass
