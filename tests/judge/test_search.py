"""The search: alike for all, at one price, and part of the null."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest

from trimtab.steering.fitters.mean_difference import MeanDifference
from trimtab.steering.judge.candidates import Candidates, RowRefit
from trimtab.steering.judge.placebo import PlaceboCounts, placebos
from trimtab.steering.judge.search import Search, best_forecasts, best_point, glanced
from trimtab.steering.judge.settings import SearchSettings
from trimtab.steering.judge.verdict import SitePoint
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ANSWER
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.response import Forecast, LinearResponse
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.contrast import Contrast
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.statistics import rank_p_value

BUDGET, WIDTH, TRIALS = 0.3, 8, 200


def know_nothing(generator: torch.Generator, sites: int) -> dict[str, SteeringPlan]:
    """A random direction at every site."""
    steps = [Intervention(Site("resid_post", b), Add(torch.randn(WIDTH, generator=generator))) for b in range(sites)]
    return {str(step.site): SteeringPlan((step,)) for step in steps}


class LinearWorld:
    """A model that is exactly its linear response, on a selection and on a report split that agree only in part."""

    def __init__(self, sites: int, seed: int):
        stream = torch.Generator().manual_seed(seed)
        places = [(Site("resid_post", b), ANSWER) for b in range(sites)]
        slopes = {place: torch.randn(2, WIDTH, generator=stream) for place in places}
        scores = {place: torch.randn(2, 20, WIDTH, generator=stream) for place in places}
        self.response = LinearResponse(slopes, scores, 40)

    def forecast(self, plan: SteeringPlan, weights: tuple[float, float]) -> Forecast:
        (step,) = plan.interventions
        return self.response.along([((step.site, ANSWER), step.move.vector)]).forecast(weights)

    def effect(self, candidates: Candidates) -> tuple[str, float]:
        """The best candidate on the selection split, and its effect on the report split."""
        (site,) = best_forecasts({name: self.forecast(p, (0.7, 0.3)) for name, p in candidates.items()}, BUDGET, 1)
        return site, self.forecast(candidates[site], (0.3, 0.7)).effect(BUDGET)


def p_values(sites: int, alike: bool) -> np.ndarray:
    """Of a plan that knows nothing. alike: placebos are searched as it is; otherwise they stand at its site."""
    found = []
    for seed in range(TRIALS):
        world, stream = LinearWorld(sites, seed), torch.Generator().manual_seed(10_000 + seed)
        candidates = know_nothing(stream, sites)
        refit = RowRefit(MeanDifference(), Contrast({}), candidates)
        drawn = placebos(candidates, Contrast({}), refit, PlaceboCounts(19, 0, 0, 0), seed)
        site, effect = world.effect(candidates)
        sets = [p.candidates if alike else {site: p.candidates[site]} for p in drawn]
        found.append(rank_p_value(effect, [world.effect(one)[1] for one in sets]))
    return np.array(found)


def test_p_values_are_uniform_when_the_plan_knows_nothing():
    """Searched alike, p <= a in a share a of trials; single draws at the chosen site (what was done before) give small
    p-values several times too often, so this test can fail."""
    searched, single = p_values(6, True), p_values(6, False)
    for level in (0.05, 0.1, 0.25, 0.5):
        low, high = binom.ppf([0.0005, 0.9995], TRIALS, level)
        assert low <= (searched <= level + 1e-9).sum() <= high, level
    assert kstest(searched - np.random.default_rng(0).uniform(0, 0.05, TRIALS), "uniform").pvalue > 0.001
    assert (single <= 0.0501).mean() > 0.12


def test_spending_more_than_asked_is_corrected_however_far():
    """A margin of 0.55 lost to 0.50 at 0.59 of 0.3 nats asked, and won at 0.61."""
    honest = SitePoint("resid_post.9", 1.0, 0.30, 0.50, 40)
    for kl in (0.59, 0.61, 3.0):
        assert best_point([honest, SitePoint("resid_post.3", 1.0, kl, 0.55, 40)], 0.3).site == "resid_post.9"
    margins = np.linspace(0.05, 2.0, 300)
    worth = [
        best_point([SitePoint("a", 1.0, 0.3, 0.2, 6), SitePoint("b", 1.0, kl, 0.3, 6)], 0.3).site for kl in margins
    ]
    assert sorted(worth, reverse=True) == worth and set(worth) == {"a", "b"}, "changes hands once, where it should"
    saturated = SitePoint("resid_post.3", 1.0, 0.03, 0.3, 6)
    assert best_point([honest, saturated], 0.3).site == "resid_post.9", "no credit for what cannot be spent"


@pytest.fixture
def search(tiny, make_text):
    pairs = [AnswerPair(make_text(k, 5 + k % 3, 4), make_text(90 + k, 5 + k % 3, 3)) for k in range(6)]
    pairs = [AnswerPair(p.positive, p.positive.prompt.followed_by(p.negative.ids[-3:].tolist())) for p in pairs]
    return lambda **changes: Search(Scorer(tiny), pairs, 0.05, SearchSettings(**changes))


def quiet(stage: str, done: int, total: int) -> None:
    assert stage == "search" and 0 <= done <= total


def test_a_set_is_searched_alike_in_any_company(search, make_plan):
    """What a search chooses does not depend on who else is searched: the null's exchangeability."""
    sets = [{f"resid_post.{b}": make_plan(seed=10 * s + b, block=b) for b in range(3)} for s in range(4)]
    together = search(pairs=4)(sets, quiet)
    for candidates, choice in zip(sets, together, strict=True):
        (alone,) = search(pairs=4)([candidates], quiet)
        assert alone.name == choice.name and alone.plan is candidates[choice.name]
        assert [p.pairs for p in choice.points].count(4) == 2 and list(candidates) == [p.site for p in choice.points]
        for one, other in zip(alone.points, choice.points, strict=True):
            assert (one.strength, one.kl, one.margin) == pytest.approx(
                (other.strength, other.kl, other.margin), rel=1e-3
            )


def test_screening_finds_what_measuring_everything_finds(search, make_plan):
    candidates = {f"resid_post.{b}.{s}": make_plan(seed=s, block=b) for b in range(3) for s in range(5)}
    (screened,) = search(pairs=6, draws=8, finalists=3)([candidates], quiet)
    (full,) = search(pairs=6, finalists=len(candidates), tolerance=0.05, cap=10)([candidates], quiet)
    assert all(p.forecast is not None and (p.pairs or p.forecast == p.margin) for p in screened.points)
    assert [p.forecast for p in screened.points] != [p.margin for p in screened.points]
    forecast, worth = ({p.site: p.margin for p in choice.points} for choice in (screened, full))
    assert worth[screened.name] > 0.8 * worth[full.name]
    assert np.corrcoef(list(forecast.values()), list(worth.values()))[0, 1] > 0.9


def test_a_candidate_whose_forecast_is_modest_is_looked_at():
    """Forecasts are wrong where effects are not small; then neighbours of the best are among those looked at."""
    forecasts = {f"resid_post.{b}": Forecast(gain=1.0 + b / 30, cost=1.0) for b in range(30)}
    names = glanced(forecasts, 1.0, SearchSettings())
    assert len(set(names)) == len(names) == 9 and names[:3] == [f"resid_post.{b}" for b in (29, 28, 27)]
    blocks = sorted(int(name.split(".")[1]) for name in names)
    assert max(b - a for a, b in zip([0, *blocks], blocks, strict=False)) <= 5
    assert set(glanced(dict(list(forecasts.items())[:6]), 1.0, SearchSettings())) == set(list(forecasts)[:6])


def test_few_pairs_are_read_as_what_the_many_would_say(search, make_plan):
    """Where effects are linear, measuring two pairs and forecasting the rest gives what measuring all six gives."""
    candidates = {f"resid_post.{b}.{s}": make_plan(seed=s, block=b) for b in range(3) for s in range(4)}
    gentle = {"finalists": 12, "tolerance": 0.05, "cap": 10}
    few, many = (replace(search(pairs=n, **gentle), budget=1e-5)([candidates], quiet)[0] for n in (2, 6))
    rate = lambda choice: np.array([p.margin / p.strength for p in choice.points])  # noqa: E731
    assert np.abs(rate(few) - rate(many)).max() < 0.1 * np.abs(rate(many)).max()


def test_a_candidate_that_moves_nothing_is_never_dosed(search, make_plan):
    nothing = {"resid_post.1": SteeringPlan((Intervention(Site("resid_post", 1), Add(torch.zeros(32))),))}
    (choice,) = search()([nothing], quiet)
    assert choice.strength == 0.0 and choice.points[0].kl == 0.0
