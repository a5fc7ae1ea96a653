"""The library steering-vectors, given the same vector, gives the same logits and the same greedy text."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("steering_vectors", reason="steering-vectors is not installed; BENCHMARKS.md says how")

from steering_vectors import SteeringVector

from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, GENERATED, Span
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

NEW_TOKENS = 12


def plan_of(vectors: dict[int, Tensor], span: Span = ALL) -> SteeringPlan:
    return SteeringPlan(tuple(Intervention(Site("resid_post", b), Add(v), span) for b, v in vectors.items()))


def greedy(model, prompt: Tensor, use_cache: bool = True) -> list[int]:
    """The tokens that `model.generate` adds to one prompt."""
    mask = torch.ones_like(prompt)
    out = model.generate(
        prompt,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        use_cache=use_cache,
    )
    return out[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("strength", [1.0, -2.5])
def test_logits_are_equal_to_the_bit(subject, strength):
    ids, vectors = torch.from_numpy(subject.texts[1].ids)[None], {subject.middle: subject.vector()}
    with torch.inference_mode():
        with SteeringVector(vectors).apply(subject.model, multiplier=strength):
            theirs = subject.model(ids).logits
        with plan_of(vectors).on(subject.model, strength=strength):
            ours = subject.model(ids).logits
        base = subject.model(ids).logits
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, base, atol=0.01)


def test_vectors_at_every_block_give_equal_logits(subject):
    ids = torch.from_numpy(subject.texts[1].ids)[None]
    vectors = {b: subject.vector(seed=b, size=0.02) for b in range(subject.anatomy.n_layers)}
    with torch.inference_mode():
        with SteeringVector(vectors).apply(subject.model):
            theirs = subject.model(ids).logits
        with plan_of(vectors).on(subject.model):
            ours = subject.model(ids).logits
    assert torch.equal(ours, theirs)


def test_greedy_text_is_the_same(subject):
    vectors = {subject.middle: subject.vector(size=0.5)}
    prompt = torch.from_numpy(subject.texts[1].prompt.ids)[None]
    base = greedy(subject.model, prompt)
    with SteeringVector(vectors).apply(subject.model):
        theirs = greedy(subject.model, prompt)
    with plan_of(vectors).on(subject.model):
        ours = greedy(subject.model, prompt)
    assert ours == theirs != base


def test_generated_tokens_are_steered_under_a_cache_where_the_peer_needs_none(subject):
    """`min_token_index` counts within each forward pass, so under a KV cache the peer steers nothing; without a cache
    it means what our span means, and the texts agree."""
    vectors = {subject.middle: subject.vector(size=0.5)}
    prompt = torch.from_numpy(subject.texts[1].prompt.ids)[None]
    n = prompt.shape[1]
    base = greedy(subject.model, prompt)
    with SteeringVector(vectors).apply(subject.model, min_token_index=n):
        cached, uncached = greedy(subject.model, prompt), greedy(subject.model, prompt, use_cache=False)
    with plan_of(vectors, GENERATED).on(subject.model):
        ours = greedy(subject.model, prompt)
    assert cached == base
    assert ours == uncached != base
