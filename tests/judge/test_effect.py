"""Margins against plain forward passes."""

import numpy as np
import pytest
import torch

from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.effect import Behaved, Margins, margins, prompt_groups
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.scorer import Scorer


@pytest.fixture
def pairs(make_text):
    prompts = [make_text(k, 5 + k, 0) for k in range(5)]
    ends = [(make_text(50 + k, 3 + k, 0).ids, make_text(80 + k, 7 - k, 0).ids) for k in range(5)]
    return [AnswerPair(p.followed_by(a), p.followed_by(b)) for p, (a, b) in zip(prompts, ends, strict=True)]


def by_hand(model, text, plan=None) -> float:
    ids = torch.from_numpy(text.ids)[None]
    with torch.no_grad():
        if plan is None:
            logits = model(ids).logits
        else:
            with plan.on(model, prompt_lengths=[text.prompt_length]):
                logits = model(ids).logits
    scores = logits[0, :-1].double().log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return float(scores[text.prompt_length - 1 :].mean())


@pytest.mark.parametrize("span", [None, "all", "answer", "prompt"])
def test_margin_is_the_difference_of_mean_log_probabilities(tiny, pairs, make_plan, span):
    plan = None if span is None else make_plan(span=span, size=4.0)
    want = [by_hand(tiny, p.positive, plan) - by_hand(tiny, p.negative, plan) for p in pairs]
    np.testing.assert_allclose(margins(Scorer(tiny), pairs, plan), want, rtol=1e-4, atol=1e-5)


def test_the_effect_is_paired_and_the_base_measured_once(tiny, pairs, make_plan):
    plan, scorer = make_plan(size=4.0), Scorer(tiny)
    bench = Margins(scorer, pairs)
    effect = bench.effect(bench.of(plan))
    assert bench.base is bench.base
    assert effect.margin.mean == pytest.approx(effect.margin_steered - effect.margin_base)
    assert effect.margin.n == 5
    assert bench.effect(bench.base).margin.mean == 0.0


def test_fewer_margins_are_compared_over_the_pairs_both_have(tiny, pairs, make_plan):
    bench = Margins(Scorer(tiny), pairs)
    whole = bench.of(make_plan(size=4.0))
    assert bench.difference(whole, whole[:3]).mean == 0.0 and bench.difference(whole, whole[:3]).n == 3


def test_shortened_pairs(pairs):
    short = pairs[4].shortened(2)
    assert len(short.positive) - short.positive.prompt_length == 2
    assert np.array_equal(short.positive.ids, pairs[4].positive.ids[: len(short.positive)])
    assert pairs[0].shortened(99).negative.ids.tolist() == pairs[0].negative.ids.tolist()
    assert pairs[0].shortened(None) is pairs[0]


def test_behaviour_joins_the_effect(tiny, pairs):
    bench = Margins(Scorer(tiny), pairs)
    effect = Behaved(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 6.0])).into(bench.effect(bench.base))
    assert (effect.behaviour_base, effect.behaviour_steered) == (2.0, pytest.approx(10 / 3))
    assert effect.behaviour.mean == pytest.approx(4 / 3)


def test_empty_completions(tiny, pairs):
    broken = [*pairs, AnswerPair(pairs[0].positive.prompt, pairs[0].negative)]
    with pytest.raises(SteeringError, match="1 of 12 completions are empty"):
        margins(Scorer(tiny), broken)
    with pytest.raises(SteeringError):
        margins(Scorer(tiny), [])


def test_pairs_of_one_prompt_are_resampled_together(make_text):
    """Also when only one side of them is shared, and through other pairs."""
    a, b, c, d = (make_text(k, 5, 0).followed_by([k]) for k in range(4))
    groups = prompt_groups([AnswerPair(a, b), AnswerPair(c, c), AnswerPair(b, d), AnswerPair(c.followed_by([9]), c)])
    assert len(set(groups)) == 2 and groups[0] == groups[2] and groups[1] == groups[3]
    assert [AnswerPair(a, b).paired, AnswerPair(c, c.followed_by([9])).paired] == [False, True]
    some = [AnswerPair(text, text.followed_by([9, k])) for k, text in enumerate((a, b, c, d) * 5)]
    measured = Margins(None, some)
    values = np.arange(20.0)
    found = measured.difference(values, np.zeros(20))
    assert (found.n, found.clusters) == (20, 4)
    assert measured.difference(values[:6], values).n == 6, "the first pairs keep their own prompts"
