"""TransformerLens 4 (TransformerBridge) finds the same activations and, steered, the same logits.

The bridge forces eager attention; the model's default here is `sdpa`, which adds up in another order. With eager on
both sides everything is equal to the bit, so that is what is asked; sdpa differs by single-precision rounding.
"""

import copy

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformer_lens", reason="TransformerLens is not installed; BENCHMARKS.md says how")

from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from trimtab.steering.model.embedded import embedded_folder
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.reading import capture

NAMES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "mlp_post": "mlp.hook_post",
}
# Measured on the embedded model: 2.4e-6 of a row's norm at worst over all points and blocks.
SDPA_AGAINST_EAGER = 2e-5


@pytest.fixture(scope="module")
def bridge(subject) -> TransformerBridge:
    """A copy of the model in TransformerLens's hands: booting rewires the modules that it is given. It insists on a
    tokenizer, which these tests do not use."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    model = copy.deepcopy(subject.model)
    return TransformerBridge.boot_transformers("subject", device="cpu", hf_model=model, tokenizer=tokenizer)


@pytest.fixture
def eager(subject):
    """The subject with the attention that TransformerLens uses."""
    before = subject.model.config._attn_implementation
    subject.model.set_attn_implementation("eager")
    yield subject
    subject.model.set_attn_implementation(before)


def test_activations_are_equal_to_the_bit_with_the_same_attention(eager, bridge):
    for site, ours, theirs in both(eager, bridge):
        assert torch.equal(ours, theirs), site


def test_activations_agree_with_the_default_attention(subject, bridge):
    for site, ours, theirs in both(subject, bridge):
        gap = float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())
        assert gap < SDPA_AGAINST_EAGER, (site, gap)


def test_steered_logits_are_equal_to_the_bit(eager, bridge):
    ids, vector, block = torch.from_numpy(eager.texts[1].ids)[None], eager.vector(), eager.middle
    plan = SteeringPlan((Intervention(Site("resid_post", block), Add(vector)),))
    with torch.inference_mode():
        base = eager.model(ids).logits
        with plan.on(eager.model):
            ours = eager.model(ids).logits
        theirs = bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{block}.hook_resid_post", lambda h, hook: h + vector)])
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, base, atol=0.01)


def both(subject, bridge) -> list[tuple[Site, Tensor, Tensor]]:
    """Site, our rows and TransformerLens's rows `[s d]`, at every point of every block, for one text."""
    text = subject.texts[1]
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(torch.from_numpy(text.ids)[None])
    sites = subject.anatomy.sites(NAMES)
    ours = capture(subject.anatomy, [text], sites).rows
    assert len(sites) == len(NAMES) * subject.anatomy.n_layers
    return [(s, ours[s][0], cache[f"blocks.{s.block}.{NAMES[s.point]}"][0].flatten(1)) for s in sites]
