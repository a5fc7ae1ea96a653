"""The dose laws: 0 at 0, the budget met, both signs, unreachable said, few verifications."""

import math

import numpy as np
import pytest
import torch

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.site import Site
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import FORCED, Calibration
from trimtab.steering.price.dose import Dosing, dose_on, dose_together
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.price.rollouts import roll_out, rolled_divergences
from trimtab.steering.price.strength import find_strength
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding
from trimtab.steering.statistics import ratio_interval


class Curve:
    """A KL curve that counts how often it is asked."""

    def __init__(self, law):
        self.law, self.calls = law, 0

    def __call__(self, g: float) -> float:
        self.calls += 1
        return self.law(g)


ROLLOUT = Decoding()


def rollout_divergences(model, plan, prompts, decoding=ROLLOUT) -> list[np.ndarray]:
    """KL(steered || base) per prompt and token, each plan by itself: written first, then read by both models."""
    return divergences(Scorer(model), roll_out(model, plan, prompts, decoding), steered_from_base(plan))


LAWS = {
    "parabola": lambda g: g * g,
    "saturating": lambda g: 3 * g * g / (1 + g * g),
    "steep": lambda g: g * g + 5 * g**6,
    "flat start": lambda g: max(0.0, g - 1) ** 2,
    "bumpy": lambda g: g * g * (1 + 0.3 * math.sin(9 * g)),
    "quantised": lambda g: round(g * g, 2),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("guess", [0.001, 0.5, 40.0])
@pytest.mark.parametrize("target", [0.1, 1.0])
def test_the_target_is_found_from_far_and_near(law, guess, target):
    curve = Curve(LAWS[law])
    found = find_strength(curve, target, guess, tolerance=0.05, cap=20)
    assert found.reachable, found
    assert LAWS[law](found.strength) == found.achieved == pytest.approx(target, rel=0.05)
    assert curve.calls == len(found.history) <= 16


@pytest.mark.parametrize("law", ["parabola", "saturating", "steep", "bumpy"])
def test_few_measurements_from_a_fair_guess(law):
    curve = Curve(LAWS[law])
    guess = 0.8 * find_strength(LAWS[law], 0.3, 0.5, tolerance=0.001, cap=60).strength
    assert find_strength(curve, 0.3, guess, tolerance=0.1).reachable
    assert curve.calls <= 3


def test_saturation_is_said_and_stays_below_the_budget():
    curve = Curve(LAWS["saturating"])
    found = find_strength(curve, 5.0, 1.0, cap=30)
    assert not found.reachable and curve.calls < 12
    assert 2.5 < found.achieved < 3.0


def test_a_curve_that_is_zero_everywhere_is_unreachable():
    found = find_strength(lambda g: 0.0, 1.0, 1.0)
    assert (found.strength, found.achieved, found.reachable) == (0.0, 0.0, False)


def test_no_strength_beyond_the_limit_is_tried():
    for guess in (0.01, 0.9, 50.0):
        curve = Curve(lambda g: g * g)
        found = find_strength(curve, 4.0, guess, cap=20, limit=1.0)
        assert max(g for g, _ in found.history) == 1.0 == found.strength == found.achieved and not found.reachable
        assert find_strength(curve, 0.5, guess, cap=20, limit=1.0).reachable


def test_a_projection_is_not_dosed_into_a_mirror(tiny, texts):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    plan = SteeringPlan(
        (Intervention(Site("resid_post", 1), Ablate((direction / direction.norm())[None]), strength=0.5),)
    )
    calibration = Calibration(Scorer(tiny), texts, on=FORCED)
    dearest = calibration.kl(plan.scaled(2.0))
    scaled, found = dose_on(calibration, plan, 4 * dearest)
    assert not found.reachable and found.strength == 2.0 and found.achieved == pytest.approx(dearest)
    assert scaled.interventions[0].strength == 1.0 and max(g for g, _ in found.history) == 2.0


def test_a_jump_over_the_target_gives_the_side_below():
    found = find_strength(lambda g: 0.1 if g < 1 else 9.0, 1.0, 0.5, cap=50)
    assert not found.reachable and found.achieved == 0.1 and len(found.history) < 20


def test_not_finite_counts_as_too_dear():
    found = find_strength(lambda g: g * g if g < 2 else math.nan, 1.0, 64.0)
    assert found.reachable and found.achieved == pytest.approx(1.0, rel=0.1)
    never = find_strength(lambda g: math.inf, 1.0, 1.0, cap=5)
    assert (never.strength, never.reachable, len(never.history)) == (0.0, False, 5)


def test_the_cap_is_a_cap():
    curve = Curve(lambda g: g * g)
    found = find_strength(curve, 1e9, 1e-6, cap=3)
    assert curve.calls == 3 and not found.reachable and found.achieved < 1e9


@pytest.mark.parametrize("target", [0.02, 0.3])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("span", ["answer", "all"])
def test_the_budget_is_met_on_rollouts(tiny, texts, make_plan, target, sign, span):
    plan = make_plan(span=span)
    scaled, found = dose_on(Calibration(Scorer(tiny), texts), plan, target, Dosing(0.1, sign))
    assert found.reachable and math.copysign(1, found.strength) == sign
    assert scaled.interventions[0].strength == pytest.approx(found.strength)
    again = np.concatenate(rollout_divergences(tiny, scaled, texts))
    assert again.mean() == pytest.approx(found.achieved, rel=1e-6)
    assert found.achieved == pytest.approx(target, rel=0.1)
    assert len(found.history) <= 5 and found.forwards > 0
    assert np.sign([g for g, _ in found.history]).tolist() == [sign] * len(found.history)


def test_the_budget_is_met_on_other_prompts_within_their_interval(tiny, make_text, make_plan):
    calibration, held_out = ([make_text(start + k, 8, 0) for k in range(16)] for start in (100, 200))
    scaled, found = dose_on(Calibration(Scorer(tiny), calibration), make_plan(), 0.1, Dosing(0.05))
    per_text = rollout_divergences(tiny, scaled, held_out)
    kl = ratio_interval(np.array([v.sum() for v in per_text]), np.array([len(v) for v in per_text]))
    assert found.reachable and kl.low * 0.8 <= 0.1 <= kl.high * 1.2


def test_the_signs_are_not_taken_to_be_equal(tiny, texts, make_plan):
    plan = make_plan(seed=4)
    plus, minus = (
        dose_on(Calibration(Scorer(tiny), texts), plan, 0.5, Dosing(0.02, sign))[1].strength for sign in (1, -1)
    )
    assert plus > 0 > minus and abs(plus + minus) > 0.01 * plus


def test_forced_calibration_reads_the_given_completions(tiny, texts, make_plan):
    calibration = Calibration(Scorer(tiny), texts, on=FORCED)
    scaled, found = dose_on(calibration, make_plan(), 0.05, Dosing(tolerance=0.05))
    assert found.reachable and calibration.kl(scaled) == pytest.approx(found.achieved)
    assert found.forwards <= 20


def test_the_first_guess_is_near_for_small_budgets(tiny, texts, make_plan):
    _, found = dose_on(Calibration(Scorer(tiny), texts, on=FORCED), make_plan(), 1e-3, Dosing(tolerance=0.15))
    assert len(found.history) == 1 and found.first_guess == found.strength


def test_a_guess_from_elsewhere_skips_the_closed_form(tiny, texts, make_plan):
    calibration = Calibration(Scorer(tiny), texts, on=FORCED)
    _, found = dose_on(calibration, make_plan(), 0.05, Dosing(guess=1.0))
    assert found.first_guess == 1.0 and found.history[0][0] == 1.0


def test_a_plan_that_does_nothing_cannot_be_dosed(tiny, texts):
    nothing = SteeringPlan((Intervention(Site("resid_post", 1), Add(torch.zeros(32))),))
    scaled, found = dose_on(Calibration(Scorer(tiny), texts), nothing, 0.1)
    assert (found.strength, found.achieved, found.reachable, found.history) == (0.0, 0.0, False, ())
    assert scaled.interventions[0].strength == 0.0


def test_saturation_of_a_real_model_is_said(tiny, texts, make_plan):
    """The final norm forgets scale: beyond some strength the logits depend on the direction only."""
    scaled, found = dose_on(Calibration(Scorer(tiny), texts, on=FORCED), make_plan(block=2), 500.0)
    assert not found.reachable and 0 < found.achieved < 500 and len(found.history) <= 10


def test_strength_zero_costs_nothing(tiny, texts, make_plan):
    for on in ("rollouts", FORCED):
        assert Calibration(Scorer(tiny), texts, on=on).kl(make_plan().scaled(0)) == 0.0


@pytest.mark.parametrize(
    "wrong,words",
    [
        (lambda t, p, x: dose_on(Calibration(Scorer(t), x), p, 0.0), "budget of 0.0"),
        (lambda t, p, x: dose_on(Calibration(Scorer(t), x), p, -1.0), "above 0"),
        (lambda t, p, x: dose_on(Calibration(Scorer(t), x), p, math.nan), "budget of nan"),
        (lambda t, p, x: dose_on(Calibration(Scorer(t), x), p, 0.1, Dosing(0.1, 2)), "sign is 2"),
        (lambda t, p, x: dose_on(Calibration(Scorer(t), x), p, 0.1, Dosing(1.5)), "tolerance 1.5"),
        (lambda t, p, x: Calibration(Scorer(t), x, on="hope"), "not on 'hope'"),
        (lambda t, p, x: Calibration(Scorer(t), [y.prompt for y in x], on=FORCED), "completions"),
    ],
)
def test_bad_input(tiny, texts, make_plan, wrong, words):
    with pytest.raises(SteeringError, match=words):
        wrong(tiny, make_plan(), texts)


def test_side_by_side_is_one_by_one(tiny, texts, make_plan):
    """Several plans in one batch write the same texts, cost the same and get the same doses as each for itself."""
    scorer, decoding, prompts = Scorer(tiny), Decoding(max_new_tokens=5), [text.prompt for text in texts]
    plans = [make_plan(seed=k).scaled(0.5 + k / 2) for k in range(4)]
    together = rolled_divergences(scorer, plans, prompts, decoding)
    for plan, found in zip(plans, together, strict=True):
        for got, want in zip(found, rollout_divergences(tiny, plan, prompts, decoding), strict=True):
            np.testing.assert_allclose(got, want, atol=2e-4)
    calibration, how = Calibration(scorer, prompts, decoding), Dosing(tolerance=0.1, guess=0.5)
    apart = [dose_on(calibration, plan, 0.05, how)[1] for plan in plans]
    for one, other in zip(dose_together(calibration, plans, 0.05, how), apart, strict=True):
        assert one[1].reachable == other.reachable and one[1].forwards == other.forwards
        assert one[1].strength == pytest.approx(other.strength, rel=1e-2)
