"""Gates and controllers made from labelled prompts, on tiny models where the labels are in the tokens."""

import numpy as np
import pytest
import torch

from trimtab.steering.conditions.controller import ControllerSettings, Taught, frozen, gated_by, train_controller
from trimtab.steering.conditions.fit_gate import (
    GateSettings,
    fit_gate,
    held_out_auroc,
    opened_for,
    oriented_gate,
    rates_of,
    threshold_for,
)
from trimtab.steering.conditions.prompts import Labelled, Splits
from trimtab.steering.conditions.selectivity import Arena
from trimtab.steering.errors import BadRows, SteeringError, UnknownName
from trimtab.steering.gates.linear import Linear
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ANSWER
from trimtab.steering.model.tokens import Role, Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.price.dose import Dosing, dose_on
from trimtab.steering.price.kl import base_from_steered, divergences, steered_from_base
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding

SITES = [Site("resid_post", 0), Site("resid_post", 1)]


def prompts(n: int, seed: int) -> Labelled:
    """Random tokens; wanted prompts hold token 50 near their end."""
    draw = np.random.default_rng(seed)
    wanted, found = np.arange(n) % 2 == 0, []
    for label in wanted:
        ids = draw.integers(5, 45, size=int(draw.integers(6, 11)))
        ids[-2:] = 50 if label else 48
        found.append(Tokens(ids.astype(np.int64), len(ids), np.full(len(ids), Role.TEXT), np.zeros(len(ids), bool)))
    return Labelled(found, wanted)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Splits(prompts(60, 0), prompts(50, 1), prompts(60, 2))


@pytest.mark.parametrize("kind", ["linear", "cosine", "cast"])
def test_a_gate_finds_what_the_tokens_say_and_keeps_its_promise(tiny_llama, splits, kind):
    found = fit_gate(Anatomy.of(tiny_llama), splits, SITES, GateSettings(kind, 0.1))
    assert found.rates.auroc > 0.8 and found.rates.true_positive.mean > 0.4
    assert found.rates.false_positive.low <= 0.1
    assert found.gate.site in SITES and set(found.by_site) == {str(site) for site in SITES}
    assert 0.2 < found.length_auroc < 0.8, "lengths say nothing here"


def test_on_labels_that_say_nothing_a_gate_still_keeps_its_promise(tiny_llama, splits):
    draw = np.random.default_rng(5)
    parts = (splits.fit, splits.validation, splits.report)
    noise = Splits(*(Labelled(part.prompts, draw.permutation(part.wanted)) for part in parts))
    found = fit_gate(Anatomy.of(tiny_llama), noise, SITES, GateSettings(false_positive_rate=0.2))
    assert 0.2 < found.rates.auroc < 0.8 and found.rates.false_positive.low <= 0.2


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_the_threshold_promises_its_rate_for_new_prompts(rate):
    """Over many draws of calibration and new scores, heavy-tailed, the mean rate is at most what was asked."""
    draw = np.random.default_rng(0)
    opened = [float(np.mean(draw.standard_t(2, 200) > threshold_for(draw.standard_t(2, 39), rate))) for _ in range(400)]
    assert rate - 0.03 < np.mean(opened) <= rate + 3 * np.std(opened) / 20


def test_the_rate_holds_after_the_choice_of_the_site():
    """Over many draws of prompts the mean rate on new ones is at most what was asked, whether one site was tried or
    20, and however few prompts set the threshold."""
    draw, settings, report = np.random.default_rng(0), GateSettings("cosine", 0.05), 1000
    for sites, unwanted, signal in ((1, 40, 1.0), (20, 20, 1.0), (20, 40, 0.0), (20, 100, 1.0)):
        rates = []
        for _ in range(60):
            wanted = np.arange(40 + 2 * unwanted + 2 * report) % 2 == 0
            means = draw.normal(size=(sites, 8)) / 8**0.5
            rows = draw.normal(size=(sites, len(wanted), 8)) + signal * wanted[:, None] * means[:, None]
            rows = {Site("resid_post", k): torch.from_numpy(x).float() for k, x in enumerate(rows)}
            fit, validation, new = np.split(np.arange(len(wanted)), [40, 40 + 2 * unwanted])
            by_site = {s: held_out_auroc(s, x[fit], wanted[fit], settings) for s, x in rows.items()}
            best = max(by_site, key=by_site.get)
            gate = oriented_gate(best, rows[best][fit], wanted[fit], settings)
            gate = opened_for(gate, rows[best][validation][~wanted[validation]], 0.05)
            opened = (gate.score(rows[best][new][~wanted[new]]) > gate.threshold) ^ gate.below
            rates.append(float(opened.float().mean()))
        assert np.mean(rates) <= 0.05 + 3 * np.std(rates) / 60**0.5, f"{sites} sites, {unwanted} unwanted prompts"
        assert np.mean(rates) > 0.02, "a gate that never opens promises nothing"


def test_too_few_prompts_for_a_promise_is_said():
    with pytest.raises(BadRows, match="10 unwanted validation prompts cannot promise.* 0.05.*19 or more"):
        threshold_for(np.arange(10.0), 0.05)
    assert threshold_for(np.arange(19.0), 0.05) == 18.0
    with pytest.raises(UnknownName, match="did you mean 'linear'"):
        GateSettings("liner")
    with pytest.raises(BadRows, match="not between"):
        GateSettings(false_positive_rate=0.0)
    with pytest.raises(SteeringError, match="0 of 3 prompts want"):
        Labelled(prompts(4, 0).prompts[:3], np.zeros(3, bool))


def test_rates_have_exact_intervals():
    scores, wanted = np.array([3.0, 2.0, 0.5, 1.5, 0.2, 0.1]), np.array([1, 1, 1, 0, 0, 0], bool)
    found = rates_of(scores, wanted, 1.0)
    assert found.true_positive.mean == pytest.approx(2 / 3) and found.false_positive.mean == pytest.approx(1 / 3)
    assert found.false_positive.low == pytest.approx(0.00840, abs=1e-4), "Clopper-Pearson for 1 of 3"
    assert found.auroc == pytest.approx(8 / 9)


@pytest.fixture(scope="module")
def plan(tiny_llama) -> SteeringPlan:
    width = Anatomy.of(tiny_llama).width(SITES[0])
    stream = torch.Generator().manual_seed(3)
    steps = [Intervention(site, Add(2.0 * torch.randn(width, generator=stream)), ANSWER) for site in SITES]
    return SteeringPlan(tuple(steps))


def test_a_controller_learns_to_act_where_it_is_wanted(tiny_llama, plan, splits):
    settings = ControllerSettings(hidden=8, steps=60, tokens=6, budget=0.5, learning_rate=0.03, false_positive_rate=0.1)
    before = [parameter.requires_grad for parameter in tiny_llama.parameters()]
    weights = [parameter.clone() for parameter in tiny_llama.parameters()]
    found = train_controller(tiny_llama, Taught(plan, plan), splits, SITES, settings)
    assert [parameter.requires_grad for parameter in tiny_llama.parameters()] == before
    assert all(torch.equal(a, b) for a, b in zip(weights, tiny_llama.parameters(), strict=True))
    first, last = found.history[0], found.history[-1]
    assert last.kl_unwanted < 0.5 * first.kl_unwanted and last.loss < first.loss
    assert found.rates.true_positive.mean > 0.7 and found.rates.false_positive.low <= 0.1
    arena = Arena(Scorer(tiny_llama), splits.report, Decoding(6), lambda text: float(len(text)))
    fixed, controlled = (arena.run("", one, arena.base_scores()) for one in (plan, found.plan))
    assert controlled.unwanted.kl.mean < 0.2 * fixed.unwanted.kl.mean
    assert controlled.unwanted.touched <= 0.35 and controlled.wanted.touched > 0.7
    assert set(found.weights) == {str(site) for site in SITES}


def test_training_is_deterministic_by_seed(tiny_llama, plan, splits):
    settings = ControllerSettings(hidden=4, steps=3, tokens=4, false_positive_rate=0.1)
    one, two = (train_controller(tiny_llama, Taught(plan, plan), splits, SITES, settings) for _ in range(2))
    assert one.history == two.history
    packed = [fit.plan.pack() for fit in (one, two)]
    assert all(np.array_equal(packed[0].arrays[name], packed[1].arrays[name]) for name in packed[0].arrays)


def test_frozen_lets_go_after_an_error(tiny_llama):
    with pytest.raises(ZeroDivisionError), frozen(tiny_llama):
        assert not any(parameter.requires_grad for parameter in tiny_llama.parameters())
        raise ZeroDivisionError
    assert all(parameter.requires_grad for parameter in tiny_llama.parameters())


@pytest.mark.parametrize("closed_first", [0, 1, 3])
def test_a_plan_is_dosed_although_its_gate_is_closed_to_the_first_prompts(tiny_llama, plan, splits, closed_first):
    """A step for the closed form is taken where the plan moves something: elsewhere there is no slope to see."""
    gate = fit_gate(Anatomy.of(tiny_llama), splits, SITES, GateSettings(false_positive_rate=0.1)).gate
    gated, scorer = gated_by(plan, [gate] * len(SITES)), Scorer(tiny_llama)
    one_by_one = [Calibration(scorer, [prompt], Decoding(4)).kl(gated) for prompt in splits.report.prompts]
    shut = [p for p, kl in zip(splits.report.prompts, one_by_one, strict=True) if kl < 1e-6][:closed_first]
    open_ones = [p for p, kl in zip(splits.report.prompts, one_by_one, strict=True) if kl > 1e-3][:4]
    assert len(shut) == closed_first and len(open_ones) == 4
    scaled, found = dose_on(Calibration(scorer, [*shut, *open_ones], Decoding(6)), gated, 0.1, Dosing(tolerance=0.25))
    assert found.reachable and found.strength > 0 and scaled.interventions[0].strength > 0


def test_an_open_gate_costs_what_the_plan_costs(tiny_llama, plan, splits):
    """Texts of many lengths: passes of gated and plain plans batch in another order."""
    wide = Linear(weight=torch.ones(40), site=SITES[1], threshold=float("-inf"))
    open_plan, draw = gated_by(plan, [wide] * 2), np.random.default_rng(9)
    answers = (draw.integers(5, 45, size=int(draw.integers(1, 9))).tolist() for _ in splits.fit.prompts)
    texts = [prompt.followed_by(ids) for prompt, ids in zip(splits.fit.prompts, answers, strict=True)]
    scorer = Scorer(tiny_llama)
    for direction in (steered_from_base, base_from_steered):
        want, got = (divergences(scorer, texts, direction(one)) for one in (plan, open_plan))
        for a, b in zip(want, got, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_gated_plan_spends_nothing_where_it_is_shut(tiny_llama, plan, splits):
    found = fit_gate(Anatomy.of(tiny_llama), splits, SITES, GateSettings(false_positive_rate=0.1))
    steps = tuple(Intervention(s.site, Gated(s.move, found.gate), s.span) for s in plan.interventions)
    arena = Arena(Scorer(tiny_llama), splits.report, Decoding(6), lambda text: float(text.ids[-1]))
    base = arena.base_scores()
    gated, fixed = arena.run("gated", SteeringPlan(steps), base), arena.run("fixed", plan, base)
    assert gated.unwanted.touched == pytest.approx(found.rates.false_positive.mean, abs=1e-9)
    assert gated.wanted.touched == pytest.approx(found.rates.true_positive.mean, abs=1e-9)
    assert gated.unwanted.kl.mean < fixed.unwanted.kl.mean / 3
    assert gated.mean_kl == pytest.approx(arena.kl(SteeringPlan(steps)))


def test_the_same_mean_kl_is_the_same_mean(tiny_llama, plan, splits, monkeypatch):
    """One definition on both sides: a fixed plan dosed to the mean price of a gated one costs it where it was dosed,
    although answers of unequal length make the mean over prompts another number."""
    monkeypatch.setattr(tiny_llama.generation_config, "eos_token_id", list(range(0, 60, 6)))
    gate = fit_gate(Anatomy.of(tiny_llama), splits, SITES, GateSettings(false_positive_rate=0.1)).gate
    gated, decoding = gated_by(plan, [gate] * len(SITES)), Decoding(12, seed=3)
    arena = Arena(Scorer(tiny_llama), splits.report, decoding, lambda text: 0.0)
    calibration = Calibration(arena.scorer, arena.prompts.prompts, decoding)
    assert arena.kl(gated) == pytest.approx(calibration.kl(gated), rel=1e-4)
    cheaper, found = dose_on(calibration, plan, arena.kl(gated), Dosing(tolerance=0.1))
    base = arena.base_scores()
    ratio = arena.run("", cheaper, base).mean_kl / arena.run("", gated, base).mean_kl
    assert found.reachable and 0.9 - 1e-6 <= ratio <= 1.1 + 1e-6
