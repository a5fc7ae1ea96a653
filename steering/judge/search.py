"""Search: the best candidate of many, for the plan, its rivals and every placebo alike.

All candidates are screened by their linear response, which costs a few backward passes however many they are. Some of
each set, the best by forecast and others spread over the rest, are looked at once, at the strength that the forecast
names: where effects are not small a forecast misleads (French at 1 nat: blocks 10 to 16 forecast +0.5 to +0.9 and do
more than +4). The best few of those are brought to the same teacher-forced KL on selection pairs, and the one whose
margin grows most is taken to the expensive steps. Whatever choosing gains by chance, the placebos gain too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from trimtab.steering.judge.candidates import Candidates
from trimtab.steering.judge.probe import Probe
from trimtab.steering.judge.settings import SearchSettings
from trimtab.steering.judge.verdict import SitePoint
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.pulls import Labels
from trimtab.steering.price.response import Forecast, Responses, remembered_responses
from trimtab.steering.price.strength import find_strength
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.progress import Progress
from trimtab.steering.running.scorer import Scorer

CREDITED = 0.7  # share of the budget below which a candidate gets no credit for what it did not spend


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search chose. name, plan: of the candidate. points: all candidates, in their order. strength: at the
    teacher-forced KL; 0 when the candidate moves nothing."""

    name: str
    plan: SteeringPlan
    strength: float
    points: tuple[SitePoint, ...]


@dataclass(frozen=True, eq=False)
class Search:
    """One way of searching. pairs: of the selection split. budget: nats per token. seed: of the drawn labels.
    responses: those that other searches on the same pairs have computed."""

    scorer: Scorer
    pairs: Sequence[AnswerPair]
    budget: float
    settings: SearchSettings = SearchSettings()
    seed: int = 0
    responses: Responses = field(default_factory=Responses)

    def __call__(self, sets: Sequence[Candidates], progress: Progress) -> list[SearchResult]:
        """The choice from each set of candidates. All are screened together, and measured on the same pairs."""
        progress("search", 0, len(sets))
        screens, probe = self._screened(sets), Probe(self.scorer, self.pairs[: self.settings.pairs])
        base, choices = probe(None)[1], list[SearchResult]()
        for done, (candidates, screen) in enumerate(zip(sets, screens, strict=True)):
            progress("search", done, len(sets))
            choices.append(self._best(candidates, screen, probe, base))
        progress("search", len(sets), len(sets))
        return choices

    def _screened(self, sets: Sequence[Candidates]) -> list[dict[str, "_Screen"]]:
        """The forecast of every candidate of every set, from the same passes."""
        pairs = self.pairs[: max(self.settings.screen_pairs, self.settings.pairs)]
        texts = [text for pair in pairs for text in (pair.positive, pair.negative)]
        many, few = (_weights(count, len(pairs)) for count in (len(pairs), self.settings.pairs))
        plans = [plan for candidates in sets for plan in candidates.values()]
        labels = Labels(self.settings.draws, self.seed)
        along = remembered_responses(self.responses, self.scorer.model, texts, plans, labels)
        screens = iter([_Screen(one.forecast(many), one.forecast(few)) for one in along])
        return [{name: next(screens) for name in candidates} for candidates in sets]

    def _best(
        self, candidates: Candidates, screens: Mapping[str, "_Screen"], probe: Probe, base: float
    ) -> SearchResult:
        forecasts = {name: screen.many for name, screen in screens.items()}
        attempts = {name: _Attempt(name, candidates[name], screens[name], probe, base) for name in candidates}
        looked_at = {
            name: attempts[name].glance(self.budget) for name in glanced(forecasts, self.budget, self.settings)
        }
        ahead = sorted(looked_at, key=lambda name: -_score(looked_at[name], self.budget))[: self.settings.finalists]
        finalists = {name: attempts[name].at_budget(self.budget, self.settings) for name in ahead}
        points = [finalists.get(name) or forecast_point(name, forecasts[name], self.budget) for name in candidates]
        points = [replace(point, forecast=forecasts[point.site].effect(self.budget)) for point in points]
        best = best_point(points, self.budget)
        return SearchResult(best.site, candidates[best.site], best.strength, tuple(points))


@dataclass(frozen=True)
class _Screen:
    """Forecasts of one candidate: on all screening pairs, and on those it is measured on."""

    many: Forecast
    few: Forecast


@dataclass(frozen=True, eq=False)
class _Attempt:
    """Passes of one candidate over the probe's pairs; a strength that was tried is not run again.

    The difference between the few pairs of the probe and all screening pairs is taken from the forecasts (a control
    variate): measured alone, a few pairs differ more among themselves than the candidates do."""

    name: str
    plan: SteeringPlan
    screen: _Screen
    probe: Probe
    base: float
    _tried: dict[float, tuple[float, float]] = field(default_factory=dict)

    def glance(self, budget: float) -> SitePoint:
        """The candidate where its forecast puts it, whatever it costs there."""
        guess = self.screen.many.strength(budget)
        return self._point(guess) if 0 < guess < math.inf else self._nothing()

    def at_budget(self, budget: float, settings: SearchSettings) -> SitePoint:
        """The candidate at the budget, sought from there."""
        guess = self.screen.many.strength(budget)
        if not 0 < guess < math.inf:
            return self._nothing()
        measure = lambda strength: self._run(strength)[0]  # noqa: E731
        root = find_strength(measure, budget, guess, settings.tolerance, settings.cap, self.plan.limit)
        return self._point(root.strength)

    def _run(self, strength: float) -> tuple[float, float]:
        if strength not in self._tried:
            self._tried[strength] = self.probe(self.plan.scaled(strength)) if strength else (0.0, self.base)
        return self._tried[strength]

    def _point(self, strength: float) -> SitePoint:
        kl, margin = self._run(strength)
        ahead = (self.screen.many.gain - self.screen.few.gain) * strength
        return SitePoint(self.name, strength, kl, margin - self.base + ahead, len(self.probe.pairs))

    def _nothing(self) -> SitePoint:
        return SitePoint(self.name, 0.0, 0.0, 0.0, len(self.probe.pairs))


def _weights(count: int, pairs: int) -> Float[np.ndarray, "n"]:
    """Of the texts of `pairs` pairs, for the mean margin of the first `count`."""
    used = min(count, pairs)
    return np.concatenate([np.tile([1.0, -1.0], used) / used, np.zeros(2 * (pairs - used))])


def best_forecasts(forecasts: Mapping[str, Forecast], budget: float, count: int) -> list[str]:
    """The names of the `count` candidates with the largest forecast effect, best first; ties in their order."""
    return sorted(forecasts, key=lambda name: -forecasts[name].effect(budget))[:count]


def glanced(forecasts: Mapping[str, Forecast], budget: float, settings: SearchSettings) -> list[str]:
    """The candidates that are looked at: the best third by forecast, and others spread evenly over the rest, in the
    candidates' order (neighbouring blocks do alike)."""
    best = best_forecasts(forecasts, budget, max(settings.finalists, settings.glances // 3))
    rest = [name for name in forecasts if name not in best]
    count = max(0, min(settings.glances - len(best), len(rest)))
    return best + [rest[int((k + 0.5) * len(rest) / count)] for k in range(count)]


def forecast_point(name: str, forecast: Forecast, budget: float) -> SitePoint:
    """A candidate that was screened and not measured."""
    strength = forecast.strength(budget)
    if strength == math.inf:
        return SitePoint(name, 0.0, 0.0, 0.0)
    return SitePoint(name, strength, forecast.cost * strength**2, forecast.effect(budget))


def best_point(points: Sequence[SitePoint], budget: float) -> SitePoint:
    """The candidate with the largest margin at the budget among those that were measured (on the most pairs)."""
    most = max(point.pairs for point in points)
    return max((point for point in points if point.pairs == most), key=lambda point: _score(point, budget))


def _score(point: SitePoint, budget: float) -> float:
    """The margin brought to the budget by margin ~ sqrt(KL), however far beyond it was spent. What was left over is
    credited within the search's tolerance only: a candidate that cannot spend more has no more to show."""
    return point.margin * math.sqrt(budget / max(point.kl, CREDITED * budget))
