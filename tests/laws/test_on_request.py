"""Patterns, results and routers, in every family: they are what the forward pass used, and reading changes nothing."""

import numpy as np
import pytest
import torch

from trimtab.steering.errors import BadSite, UnsupportedModel
from trimtab.steering.model import on_request
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.on_request import pattern, result, router
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running.reading import capture

IDS = np.random.default_rng(0).integers(2, 57, 11)
TEXT = Tokens(IDS, 11, np.zeros(11, np.uint8), np.zeros(11, bool))
EXPERTS = ("qwen2_moe", "qwen3_moe", "mixtral", "olmoe")


def test_patterns_are_distributions_over_the_past(tiny):
    anatomy = Anatomy.of(tiny)
    before = tiny(input_ids=torch.from_numpy(IDS)[None]).logits
    found = pattern(anatomy, TEXT)
    assert sorted(found) == list(range(anatomy.n_layers))
    for weights in found.values():
        assert weights.shape == (anatomy.n_heads, 11, 11) and (weights >= 0).all() and not weights.triu(1).any()
        assert torch.allclose(weights.sum(-1), torch.ones(anatomy.n_heads, 11), atol=1e-5)
    assert torch.equal(tiny(input_ids=torch.from_numpy(IDS)[None]).logits, before)


def test_the_pattern_times_the_values_is_z(tiny_llama):
    """Values from the model's own projection of what the block normalises."""
    anatomy = Anatomy.of(tiny_llama)
    weights, block = pattern(anatomy, TEXT, [1])[1], anatomy.blocks[1]
    rows = capture(anatomy, [TEXT], [Site("resid_pre", 1), Site("z", 1)]).rows
    with torch.inference_mode():
        values = block.self_attn.v_proj(block.input_layernorm(rows[Site("resid_pre", 1)][0]))
    values = values.reshape(11, anatomy.n_kv_heads, -1).repeat_interleave(anatomy.n_heads // anatomy.n_kv_heads, 1)
    want = torch.einsum("hqk,khd->qhd", weights, values).reshape(11, -1)
    torch.testing.assert_close(rows[Site("z", 1)][0], want, rtol=1e-4, atol=1e-5)


def test_results_add_up_to_what_attention_adds(tiny):
    anatomy = Anatomy.of(tiny)
    if anatomy.family.post_norm:
        with pytest.raises(BadSite, match="heads do not add up"):
            result(anatomy, TEXT, 1)
        return
    written = result(anatomy, TEXT, 1)
    added = capture(anatomy, [TEXT], [Site("attn_out", 1)]).rows[Site("attn_out", 1)][0]
    bias = getattr(anatomy.place(Site("z", 1)).module, "bias", None)
    total = written.sum(1) if bias is None else written.sum(1) + anatomy.multiplier * bias
    assert written.shape == (11, anatomy.n_heads, anatomy.d_model)
    torch.testing.assert_close(total.detach(), added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EXPERTS)
def test_routers_choose_as_the_model_did(build_tiny, name):
    """One token: its logits come from the router's weight and what enters the MLP."""
    anatomy = Anatomy.of(build_tiny(name))
    found = router(anatomy, TEXT)
    assert sorted(found) == list(range(anatomy.n_layers))
    for block, logits in found.items():
        gate = next(m for n, m in anatomy.blocks[block].named_modules() if n.rpartition(".")[2] in ("gate", "router"))
        mid = capture(anatomy, [TEXT], [Site("resid_mid", block)]).rows[Site("resid_mid", block)][0]
        with torch.inference_mode():
            want = anatomy.blocks[block].post_attention_layernorm(mid) @ gate.weight.T
        assert logits.shape == (11, 4)
        torch.testing.assert_close(logits, want, rtol=1e-3, atol=1e-4)


def test_what_is_not_there_is_said(tiny_llama, monkeypatch):
    anatomy = Anatomy.of(tiny_llama)
    with pytest.raises(BadSite, match="has no experts"):
        router(anatomy, TEXT)
    for read in (lambda: pattern(anatomy, TEXT, [7]), lambda: result(anatomy, TEXT, 7)):
        with pytest.raises(BadSite, match="does not exist"):
            read()
    monkeypatch.setattr(on_request, "out_weight", lambda module: 2 * module.weight.T)
    with pytest.raises(UnsupportedModel, match="attn_out.1 = sum of result.1 is off"):
        result(anatomy, TEXT, 1)
