"""Capture: shared prefixes give the rows of whole passes, and every token is computed once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.steering.errors import BadSpan, SilentNoOp
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.proof import readable_points
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running.prefix_tree import MIN_SHARED, prefix_tree, tokens_in
from trimtab.steering.running.reading import Rows, capture


def text(ids, prompt: int | None = None) -> Tokens:
    ids = np.asarray(ids, dtype=np.int64)
    return Tokens(ids, prompt or len(ids), np.zeros(len(ids), np.uint8), np.zeros(len(ids), bool))


def contrastive(seed: int = 0) -> list[Tokens]:
    """One scaffold, three questions, two answers each; and a text of its own."""
    stream = np.random.default_rng(seed)
    scaffold, texts = stream.integers(2, 60, 10), []
    for _ in range(3):
        question = np.concatenate([scaffold, stream.integers(2, 60, 9)])
        texts += [text([*question, *stream.integers(2, 60, n)], len(question)) for n in (3, 6)]
    return [*texts, text(stream.integers(2, 60, 8), 5)]


@pytest.mark.parametrize("span", ["all", "generated", "answer", "last", "prompt", "first:2", "after:12"])
def test_shared_equals_whole_in_every_family(tiny, span):
    anatomy = Anatomy.of(tiny)
    texts = contrastive()[:-1]
    sites = anatomy.sites(readable_points(anatomy))
    shared, whole = (capture(anatomy, texts, sites, Rows(Span.parse(span)), share) for share in (True, False))
    if anatomy.can_share_prefixes:
        assert shared.computed == 10 + 3 * 9 + 3 * (3 + 6) < whole.computed == shared.total
    for site in sites:
        for a, b in zip(shared.rows[site], whole.rows[site], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_rows_are_those_of_each_text_alone(tiny_llama, share):
    anatomy, texts = Anatomy.of(tiny_llama), contrastive()
    site = Site("z", 1)
    rows = capture(anatomy, texts, [site], Rows(), share).rows[site]
    for one, row in zip(texts, rows, strict=True):
        alone = capture(anatomy, [one], [site], Rows(), False).rows[site][0]
        assert row.shape == alone.shape == (len(one), anatomy.width(site))
        torch.testing.assert_close(row, alone, rtol=1e-5, atol=1e-5)


def test_mean_over_a_span_is_the_mean_of_its_rows(tiny_llama):
    anatomy, texts, site = Anatomy.of(tiny_llama), contrastive()[:-1], Site("resid_post", 2)
    span = Span.parse("generated")
    rows = capture(anatomy, texts, [site], Rows(span)).rows[site]
    pooled = capture(anatomy, texts, [site], Rows(span, "mean")).rows[site]
    for many, one in zip(rows, pooled, strict=True):
        torch.testing.assert_close(one, many.double().mean(0, keepdim=True).float())


def test_blocks_behind_the_deepest_site_never_run(tiny_llama):
    anatomy, ran = Anatomy.of(tiny_llama), []
    handles = [
        block.register_forward_hook(lambda m, a, o, k=k: ran.append(k)) for k, block in enumerate(anatomy.blocks)
    ]
    try:
        capture(anatomy, contrastive(), [Site("resid_pre", 1), Site("mlp_post", 0)])
    finally:
        for handle in handles:
            handle.remove()
    assert set(ran) == {0}


def test_a_span_without_tokens_and_a_compiled_block_are_errors(tiny_llama):
    anatomy = Anatomy.of(tiny_llama)
    with pytest.raises(BadSpan, match="selects no token"):
        capture(anatomy, [text([3, 4, 5])], [Site("resid_post", 0)], Rows(Span("generated")))
    block = anatomy.blocks[1]
    original, block.forward = block.forward, lambda h, *a, **k: h
    try:
        with pytest.raises(SilentNoOp, match="nothing was read"):
            capture(anatomy, contrastive(), [Site("z", 1)])
    finally:
        block.forward = original


ids = st.lists(st.integers(0, 2), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(ids, min_size=1, max_size=12))
def test_every_token_lies_in_one_node_of_its_path(rows):
    texts = [text(row) for row in rows]
    roots = prefix_tree(texts)
    covered = [np.zeros(len(t), dtype=int) for t in texts]
    for root in roots:
        for node in root.walk():
            assert node.stop > node.start
            for i in node.texts:
                covered[i][node.start : node.stop] += 1
                first = texts[node.texts[0]].ids[node.start : node.stop]
                assert np.array_equal(first, texts[i].ids[node.start : node.stop])
            if len(node.texts) > 1:
                assert node.stop - node.start >= MIN_SHARED
    assert all((count == 1).all() for count in covered)
    assert tokens_in(roots) <= sum(map(len, texts))
