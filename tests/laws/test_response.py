"""Linear response in every family: forecasts are the derivatives of what is measured, at every place, for every kind of
move, whatever a text is batched with."""

import numpy as np
import pytest
import torch

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.proof import readable_points
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves import MOVES
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import FORCED, Calibration
from trimtab.steering.price.pulls import Labels, drawn_labels
from trimtab.steering.price.response import LinearResponse, Responses, remembered_responses, responses
from trimtab.steering.running.scorer import Scorer

SPANS = ("answer", "all", "generated", "prompt", "first:4")
SMALL = 2e-6  # nats per token: where finite differences are taken


def text(seed: int, prompt: int, completion: int) -> Tokens:
    ids = np.random.default_rng(seed).integers(2, 57, prompt + completion)
    return Tokens(ids, prompt, np.zeros(len(ids), np.uint8), np.zeros(len(ids), bool))


TEXTS = [text(k, 3 + k % 3, 2 + (2 * k) % 5) for k in range(6)]  # unequal: most rows are padded
WEIGHTS = np.array([1, -1, 1, -1, 1, -1]) / 3


def vector(width: int, seed: int) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def plans(anatomy: Anatomy, bench) -> list[SteeringPlan]:
    """An addition at every point and one head, over spans of all kinds; every other move; two additions together."""
    points = [point for point in readable_points(anatomy) if point != "embed"]
    sites = [*(Site(point, 1) for point in points), Site("z", 1, 2)]
    steps = [
        Intervention(site, Add(vector(anatomy.width(site), k)), Span.parse(SPANS[k % len(SPANS)]), 0.5 + k % 2)
        for k, site in enumerate(sites)
    ]
    others = [
        Intervention(Site("resid_post", 0), bench.move(name, anatomy.d_model)) for name in MOVES if name != "clamp"
    ]
    return [SteeringPlan((step,)) for step in [*steps, *others]] + [SteeringPlan((steps[0], steps[-1]))]


def test_remembered_responses_are_those_computed_anew(tiny_llama, bench, monkeypatch):
    """Of vectors, at one site or two, with any strength; whatever was asked before, and in whatever order of texts."""
    anatomy, memo, labels = Anatomy.of(tiny_llama), Responses(), Labels(2, seed=3)
    vectors = [plan for plan in plans(anatomy, bench) if all(isinstance(s.move, Add) for s in plan.interventions)]
    remembered_responses(memo, tiny_llama, TEXTS[::-1], vectors, Labels(1, seed=3))
    again = remembered_responses(memo, tiny_llama, TEXTS, vectors, labels)
    for one, want in zip(again, responses(tiny_llama, TEXTS, vectors, labels), strict=True):
        np.testing.assert_allclose(one.slopes, want.slopes, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(one.scores, want.scores, rtol=1e-4, atol=1e-5)
        assert one.tokens == want.tokens
    monkeypatch.setattr(LinearResponse, "of", classmethod(lambda *_: pytest.fail("computed again")))
    remembered_responses(memo, tiny_llama, TEXTS[2:4], vectors, labels)


def drawn(scorer: Scorer) -> list[torch.Tensor]:
    """Per text, labels drawn from the unsteered model."""
    logits = {plain.example: plain.logits for plain in scorer.forced(TEXTS)}
    return [drawn_labels(logits[k].log_softmax(-1), Labels().stream(text)) for k, text in enumerate(TEXTS)]


def moved(scorer: Scorer, plan: SteeringPlan, labels: list[torch.Tensor]) -> np.ndarray:
    """`[2 n]` by forward passes alone: mean log-probability of each completion, and summed one of the labels."""
    found = np.zeros((2, len(TEXTS)))
    for steered in scorer.forced(TEXTS, plan):
        picked = steered.logits.double().log_softmax(-1).gather(-1, labels[steered.example][:, None])
        found[:, steered.example] = float(steered.logprobs().double().mean()), float(picked.sum())
    return found


def test_slopes_and_scores_are_derivatives_of_what_is_measured(tiny, bench):
    anatomy, scorer = Anatomy.of(tiny), Scorer(tiny)
    chosen, labels = plans(anatomy, bench), drawn(scorer)
    for plan, along in zip(chosen, responses(tiny, TEXTS, chosen), strict=True):
        step = along.forecast(WEIGHTS).strength(SMALL)
        up, down = (moved(scorer, plan.scaled(sign * step), labels) for sign in (1, -1))
        want, got = (up - down) / 2, step * np.stack([along.slopes, along.scores[:, 0]])
        # The median over texts: in some a step crosses a kink (a relu's corner, a change of experts).
        apart = np.median(np.abs(want - got), 1) / np.abs(got).max(1)
        assert apart.max() < 0.03, (apart, [f"{i.site} {i.span} {type(i.move).__name__}" for i in plan.interventions])


def test_the_forecast_cost_is_the_kl_of_a_small_step(tiny_llama, bench):
    """Fisher's identity: squared scores of drawn labels are, on average, twice the KL."""
    calibration, chosen = Calibration(Scorer(tiny_llama), TEXTS, on=FORCED), plans(Anatomy.of(tiny_llama), bench)
    for plan, along in zip(chosen, responses(tiny_llama, TEXTS, chosen, Labels(300)), strict=True):
        step = along.forecast(WEIGHTS).strength(1e-4)
        kl = (calibration.kl(plan.scaled(step)) + calibration.kl(plan.scaled(-step))) / 2
        assert kl == pytest.approx(1e-4, rel=0.2), plan.interventions[0].site  # 1800 draws: 3% in a standard error


def test_a_plan_of_many_sites_responds_by_the_sum_of_its_interventions(tiny_llama, bench):
    """Additions at every block, one head and a neuron layer, over different spans, and a move that is no addition:
    against finite differences of the whole plan, and against its interventions alone."""
    anatomy, scorer = Anatomy.of(tiny_llama), Scorer(tiny_llama)
    sites = [*(Site("resid_post", block) for block in range(anatomy.n_layers)), Site("z", 0, 1), Site("mlp_post", 1)]
    steps = [
        Intervention(site, Add(vector(anatomy.width(site), k)), Span.parse(SPANS[k % len(SPANS)]), 0.5 + k % 2)
        for k, site in enumerate(sites)
    ]
    steps.append(Intervention(Site("resid_post", 0), bench.move("scale", anatomy.d_model), strength=-0.4))
    plan, labels = SteeringPlan(tuple(steps)), drawn(scorer)
    along, *each = responses(tiny_llama, TEXTS, [plan, *(SteeringPlan((step,)) for step in steps)])
    step = along.forecast(WEIGHTS).strength(SMALL)
    up, down = (moved(scorer, plan.scaled(sign * step), labels) for sign in (1, -1))
    want, got = (up - down) / 2, step * np.stack([along.slopes, along.scores[:, 0]])
    assert (np.median(np.abs(want - got), 1) / np.abs(got).max(1)).max() < 0.03
    np.testing.assert_allclose(along.slopes, sum(one.slopes for one in each), rtol=1e-6)
    np.testing.assert_allclose(along.scores, sum(one.scores for one in each), rtol=1e-6)
    apart = sum(one.forecast(WEIGHTS).cost for one in each)
    assert along.forecast(WEIGHTS).cost == pytest.approx((along.scores**2).sum() / (2 * along.tokens))
    assert abs(along.forecast(WEIGHTS).cost / apart - 1) > 0.05, "a sum of squares would be another number"


def test_a_text_responds_alike_in_any_batch_and_one_gradient_serves_all_directions(tiny_llama):
    places = [
        (Site("resid_post", 1), Span("answer")),
        (Site("z", 0, 3), Span("all")),
        (Site("mlp_out", 2), Span("last")),
    ]
    whole = LinearResponse.of(tiny_llama, TEXTS, places, Labels(3))
    alone = LinearResponse.of(tiny_llama, TEXTS[:1], places, Labels(3))
    width = Anatomy.of(tiny_llama).width
    for place in places:
        torch.testing.assert_close(whole.slopes[place][:1], alone.slopes[place], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(whole.scores[place][:1], alone.scores[place], rtol=1e-3, atol=1e-5)
    additions = [(place, vector(width(place[0]), k)) for k, place in enumerate(places)]
    plan = SteeringPlan(tuple(Intervention(site, Add(v), span) for (site, span), v in additions))
    (along,) = responses(tiny_llama, TEXTS, [plan], Labels(3))
    np.testing.assert_allclose(whole.along(additions).slopes, along.slopes, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(whole.along(additions).scores, along.scores, rtol=1e-4, atol=1e-5)
    assert whole.effect_at(0.1, WEIGHTS, additions) == pytest.approx(along.forecast(WEIGHTS).effect(0.1), rel=1e-4)


def test_a_plan_that_moves_no_logit_and_a_text_without_a_completion(tiny_llama):
    nothing = SteeringPlan((Intervention(Site("resid_post", 1), Add(torch.zeros(40))),))
    (along,) = responses(tiny_llama, TEXTS, [nothing])
    forecast = along.forecast(WEIGHTS)
    assert forecast.effect(0.1) == 0.0 and forecast.strength(0.1) == float("inf")
    with pytest.raises(SteeringError, match="1 of 7 texts have no completion"):
        responses(tiny_llama, [*TEXTS, text(9, 4, 0)], [nothing])
