"""Capture and steering equal what hooks written by hand and transformers itself give: to the bit on the same batch."""

import pytest
import torch

from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.reading import Rows, capture
from trimtab.steering.running.writing import Decoding, generate

POINTS = ("resid_pre", "resid_mid", "resid_post", "z", "attn_out", "mlp_out", "mlp_post")
NEW_TOKENS = 12
# One text alone against the same text in a padded batch: matrix products of another shape add up in another order.
# Rows of sink tokens are hundreds of times longer than others, so the gap is relative to the row's norm. Measured on
# the embedded model: 2.9e-6 at worst.
BATCHING = 2e-5


def add_plan(block: int, vector: torch.Tensor) -> SteeringPlan:
    return SteeringPlan((Intervention(Site("resid_post", block), Add(vector)),))


@pytest.mark.parametrize("point", POINTS)
def test_capture_of_a_batch_equals_plain_hooks_to_the_bit(subject, point):
    sites = subject.anatomy.sites([point])
    ours = whole(subject, sites)
    assert len(sites) == len(subject.model.model.layers)
    for site in sites:
        for k, text in enumerate(subject.texts):
            assert torch.equal(ours[site][k], subject.by_hand[site][k, : len(text)]), (site, k)


def test_capture_of_all_points_at_once_equals_plain_hooks_to_the_bit(subject):
    ours = whole(subject, list(subject.by_hand))
    for site, padded in subject.by_hand.items():
        for k, text in enumerate(subject.texts):
            assert torch.equal(ours[site][k], padded[k, : len(text)]), (site, k)


@pytest.mark.parametrize("share", [False, True])
def test_capture_of_unequal_texts_equals_each_text_alone(subject, plain_capture, share):
    """In padded batches, and where common beginnings ran only once."""
    sites = subject.anatomy.sites(POINTS)
    captured = capture(subject.anatomy, subject.contrast, sites, Rows(), share)
    assert (captured.computed < captured.total) == share
    for k, text in enumerate(subject.contrast):
        alone = plain_capture(subject.model, torch.from_numpy(text.ids)[None])
        for site in sites:
            gap = (captured.rows[site][k] - alone[site][0]).norm(dim=-1) / alone[site][0].norm(dim=-1)
            assert gap.max() < BATCHING, (site, k, float(gap.max()))


def test_residuals_equal_output_hidden_states(subject):
    """transformers gives the embedding, then each block's output, but the last one behind the final norm."""
    with torch.inference_mode():
        theirs = subject.model(subject.ids, output_hidden_states=True, use_cache=False).hidden_states
    last = subject.anatomy.n_layers - 1
    sites = subject.anatomy.sites(["resid_pre", "resid_post"])
    ours = whole(subject, sites)
    for k, text in enumerate(subject.texts):
        for block in range(last + 1):
            assert torch.equal(ours[Site("resid_pre", block)][k], theirs[block][k, : len(text)])
        for block in range(last):
            assert torch.equal(ours[Site("resid_post", block)][k], theirs[block + 1][k, : len(text)])
        with torch.inference_mode():
            normed = subject.model.model.norm(ours[Site("resid_post", last)][k])
        assert torch.equal(normed, theirs[-1][k, : len(text)])


def test_one_head_is_its_slice_of_the_output_projection_input(subject):
    d_head, head, block = subject.anatomy.d_head, subject.anatomy.n_heads - 1, subject.middle
    theirs = subject.by_hand[Site("z", block)]
    site = Site("z", block, head)
    ours = whole(subject, [site])[site]
    for k, text in enumerate(subject.texts):
        assert torch.equal(ours[k], theirs[k, : len(text), head * d_head : (head + 1) * d_head])


@pytest.mark.parametrize("strength", [1.0, -2.5])
def test_steered_logits_equal_plain_hooks_to_the_bit(subject, plain_steering, strength):
    ids, vector = torch.from_numpy(subject.texts[1].ids)[None], subject.vector()
    with torch.inference_mode():
        base = subject.model(ids).logits
        with plain_steering(subject.model, subject.middle, strength * vector):
            theirs = subject.model(ids).logits
        with add_plan(subject.middle, vector).on(subject.model, strength=strength):
            ours = subject.model(ids).logits
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, base, atol=0.01)


def test_steered_greedy_generation_equals_plain_hooks(subject, plain_steering):
    """One prompt at a time through `model.generate`, and through trimtab's own decoding."""
    vector = subject.vector(size=0.5)
    plan, changed = add_plan(subject.middle, vector), 0
    for text in subject.texts[:2]:
        prompt = torch.from_numpy(text.prompt.ids)[None]
        base = greedy(subject.model, prompt)
        with plain_steering(subject.model, subject.middle, vector):
            theirs = greedy(subject.model, prompt)
        with plan.on(subject.model):
            assert greedy(subject.model, prompt) == theirs
        written = generate(subject.model, [text], plan, Decoding(NEW_TOKENS, temperature=0))[0]
        assert written == theirs[: len(written)]
        changed += theirs != base
    assert changed > 0


def whole(subject, sites) -> dict:
    """Rows per site and text, every text in one pass of its own tokens."""
    return capture(subject.anatomy, subject.texts, sites, Rows(), share=False).rows


def greedy(model, prompt: torch.Tensor) -> list[int]:
    """The tokens that `model.generate` adds to one prompt."""
    mask = torch.ones_like(prompt)
    out = model.generate(prompt, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
    return out[0, prompt.shape[1] :].tolist()
