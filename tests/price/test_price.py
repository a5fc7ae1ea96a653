"""The price: damage and perplexity by hand, capability by hand, and the whole price."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trimtab.steering.errors import SteeringError
from trimtab.steering.gates.linear import Linear
from trimtab.steering.model.site import Site
from trimtab.steering.moves.gated import Gated
from trimtab.steering.price.kl import base_from_steered, divergences
from trimtab.steering.price.price import PricedOn, capability, neutral_cost, price_plan
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding


def surprise(model, text) -> np.ndarray:
    ids = torch.from_numpy(text.ids)[None]
    with torch.no_grad():
        logprobs = model(ids).logits[0, :-1].double().log_softmax(-1)
    return -logprobs.gather(-1, ids[0, 1:, None])[:, 0].numpy()


def test_perplexity_is_exp_of_the_mean_surprise(tiny, make_text, make_plan):
    texts = [make_text(k, 10 + 4 * k, 0) for k in range(4)]
    plan = make_plan(span="all", size=5.0)
    found = neutral_cost(Scorer(tiny), plan, texts)
    assert found.perplexity_base == pytest.approx(
        math.exp(np.concatenate([surprise(tiny, t) for t in texts]).mean()), rel=1e-5
    )
    with plan.on(tiny):
        steered = math.exp(np.concatenate([surprise(tiny, t) for t in texts]).mean())
    assert found.perplexity_steered == pytest.approx(steered, rel=1e-5)


def test_damage_is_that_of_text_with_a_prompt(tiny, make_text, make_plan):
    """Whatever the span: a plan that acts on prompts is priced behind half of each text, all others on all of it. The
    one-token prompt of the rest would hide nearly all that a prompt plan does."""
    texts = [make_text(k, 16 + k, 0) for k in range(6)]
    for span in ("all", "prompt", "last", "first:4", "after:4", "answer", "generated"):
        plan, halves = make_plan(span=span, size=8.0), span in ("prompt", "last")
        cut = [replace(text, prompt_length=len(text) // 2 if halves else 1) for text in texts]
        expected = np.concatenate(divergences(Scorer(tiny), cut, base_from_steered(plan)))
        found = neutral_cost(Scorer(tiny), plan, texts).damage
        assert found.mean.mean == pytest.approx(expected.mean(), rel=1e-6), span
        assert found.tokens == ("neutral, second halves" if halves else "neutral")
        if span == "prompt":
            alone = [replace(text, prompt_length=1) for text in texts]
            hidden = np.concatenate(divergences(Scorer(tiny), alone, base_from_steered(plan)))
            assert hidden.mean() < expected.mean() / 2


def test_a_gate_decides_on_half_of_a_neutral_text(tiny, make_text, make_plan):
    """Its decision on the first token alone would not be its decision in use."""
    texts, gate = (
        [make_text(k, 20, 0) for k in range(8)],
        Linear(
            weight=torch.randn(32, generator=torch.Generator().manual_seed(5)),
            site=Site("resid_post", 0),
            threshold=0.0,
        ),
    )
    plan = make_plan(size=8.0)
    step = plan.interventions[0]
    gated = replace(plan, interventions=(replace(step, move=Gated(step.move, gate)),))
    cut = [replace(text, prompt_length=10) for text in texts]
    expected = np.concatenate(divergences(Scorer(tiny), cut, base_from_steered(gated)))
    found = neutral_cost(Scorer(tiny), gated, texts).damage.mean.mean
    assert found > 0 and found == pytest.approx(expected.mean(), rel=1e-6)


def test_capability_counts_right_answers_and_halves_ties(tiny, make_text):
    items = []
    for k in range(6):
        one, other = (make_text(k, 6, 0).followed_by(make_text(seed, 3, 0).ids) for seed in (50 + k, 80 + k))
        scores = [-surprise(tiny, t)[-3:].mean() for t in (one, other)]
        items.append(AnswerPair(one, other) if scores[0] > scores[1] else AnswerPair(other, one))
    assert capability(Scorer(tiny), items) == 1.0
    assert capability(Scorer(tiny), [i.swapped for i in items]) == 0.0
    assert capability(Scorer(tiny), [AnswerPair(i.positive, i.positive) for i in items]) == 0.5
    assert capability(Scorer(tiny), [*items[:3], items[3].swapped]) == 0.75


def test_capability_is_normalised_per_token(tiny, make_text):
    """A long right answer is not punished for being long."""
    prompt = make_text(0, 6, 0)
    ids = list(make_text(1, 9, 0).ids)
    long, short = prompt.followed_by(ids), prompt.followed_by([int(np.argmax(surprise_of_next(tiny, prompt)))])
    assert capability(Scorer(tiny), [AnswerPair(long, short)]) == 1.0
    assert surprise(tiny, long)[-9:].sum() > surprise(tiny, short)[-1:].sum()


def surprise_of_next(model, prompt) -> np.ndarray:
    with torch.no_grad():
        return -model(torch.from_numpy(prompt.ids)[None]).logits[0, -1].log_softmax(-1).numpy()


def test_the_whole_price(tiny, texts, make_text, make_plan):
    neutral = [make_text(k, 15, 0) for k in range(3)]
    items = [AnswerPair(make_text(1, 4, 2), make_text(1, 4, 0).followed_by([3]))]
    on = PricedOn(texts, neutral, items, Decoding(max_new_tokens=6))
    free, dear = (price_plan(tiny, make_plan(span="all", size=s), on) for s in (0.0, 8.0))
    assert (free.budget.mean.mean, free.damage.mean.mean) == (0.0, 0.0)
    assert free.perplexity_base == free.perplexity_steered == dear.perplexity_base != dear.perplexity_steered
    assert free.capability_base == free.capability_steered
    assert dear.budget.mean.low > 0 and dear.damage.mean.low > 0
    assert (dear.budget.direction, dear.damage.direction) == ("steered||base", "base||steered")
    assert price_plan(tiny, make_plan(), PricedOn(texts, neutral)).capability_base is None


def test_capability_of_nothing(tiny):
    with pytest.raises(SteeringError, match="at least one question"):
        capability(Scorer(tiny), [])
