"""Scorer = forced_logits, whatever the plan's span, and prompts are run once."""

import numpy as np
import pytest
import torch

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running.scorer import Scorer, forced_logits


def sharing(texts: list[Tokens]) -> list[Tokens]:
    """Two further completions of every prompt."""
    return [*texts, *(t.followed_by(t.ids[:3]) for t in texts), *(t.followed_by(t.ids[:6]) for t in texts)]


@pytest.mark.parametrize("span", [None, "all", "prompt", "generated", "answer", "last", "first:3", "after:5"])
def test_equal_to_whole_passes(tiny, texts, make_plan, span):
    plan = None if span is None else make_plan(span=span, size=3.0)
    examples = sharing(texts)
    scorer = Scorer(tiny)
    for _ in range(2):  # the second time from kept prompts
        whole = {f.example: f for f in forced_logits(tiny, examples, plan)}
        shared = {f.example: f for f in scorer.forced(examples, plan)}
        assert whole.keys() == shared.keys() == set(range(len(examples)))
        for i, one in whole.items():
            assert torch.equal(one.targets, shared[i].targets)
            torch.testing.assert_close(one.logits, shared[i].logits, rtol=1e-4, atol=1e-4)


def test_interleaved_passes_do_not_steer_each_other(tiny, texts, make_plan):
    scorer, plan = Scorer(tiny), make_plan(size=5.0)
    alone = {f.example: f.logits for f in scorer.forced(texts)}
    for _, base in zip(scorer.forced(texts, plan), scorer.forced(texts), strict=True):
        assert torch.equal(alone[base.example], base.logits)


def test_late_plans_share_the_base_prompts(tiny, texts, make_plan):
    tokens = []

    def watch(arguments):
        tokens.append(arguments["input_ids"].numel())

    scorer = Scorer(tiny)
    with hooked(Anatomy.of(tiny), watch=watch):
        for plan in (None, make_plan(1), make_plan(2)):
            list(scorer.forced(texts, plan))
    assert len(tokens) == 4 and tokens[1] == tokens[2] == tokens[3]


def test_one_token_prompts(tiny, make_text, make_plan):
    texts = [make_text(k, 1, 6) for k in range(3)]
    found = Scorer(tiny).logprobs(texts, make_plan(span="all"))
    want = [
        float(f.logprobs().mean())
        for f in sorted(forced_logits(tiny, texts, make_plan(span="all")), key=lambda f: f.example)
    ]
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_a_text_without_completion_has_no_score(tiny, make_text):
    found = Scorer(tiny).logprobs([make_text(0, 5, 0), make_text(1, 5, 2)])
    assert np.isnan(found[0]) and np.isfinite(found[1])


def test_memory_is_bounded_and_costs_only_time(tiny, texts, make_plan):
    """Without room for prompts' caches the scores are the same, and every pass reads the prompts again."""
    free, bound = Scorer(tiny), Scorer(tiny, keep=0)
    for plan in (None, make_plan()):
        np.testing.assert_array_equal(free.logprobs(texts, plan), bound.logprobs(texts, plan))
    prompts = sum(text.prompt_length - 1 for text in texts)
    assert tokens_read(tiny, bound, texts) >= tokens_read(tiny, free, texts) + prompts


def tokens_read(model, scorer: Scorer, texts: list[Tokens]) -> int:
    """Real tokens and padding that one pass over the texts runs through the model."""
    counts: list[int] = []
    with hooked(Anatomy.of(model), watch=lambda arguments: counts.append(arguments["input_ids"].numel())):
        scorer.logprobs(texts)
    return sum(counts)
