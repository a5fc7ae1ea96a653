"""Search: the best site, cheaply. All candidates cost the same teacher-forced KL on a few selection pairs; the one
whose margin grows most is taken to the expensive steps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trimtab.steering.judge.effect import AnswerPair
from trimtab.steering.judge.trial import Progress, SearchSettings
from trimtab.steering.judge.verdict import SitePoint
from trimtab.steering.plan import SteeringPlan
from trimtab.steering.prefix import Scorer, gated
from trimtab.steering.price.dose import FORCED, Calibration, Dosing, find_strength
from trimtab.steering.price.kl import kl_divergence
from trimtab.steering.scoring import Forced

KEPT_BYTES = 256 * 2**20  # base logits of the search pairs are held up to this size, and made anew beyond


@dataclass
class Probe:
    """One pass over the pairs gives both the KL(steered || base) and the margins of a plan."""

    scorer: Scorer
    pairs: Sequence[AnswerPair]
    _base: list[Forced] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.texts = [text for pair in self.pairs for text in (pair.positive, pair.negative)]
        tokens = sum(len(text) - text.prompt_length for text in self.texts)
        vocabulary = int(self.scorer.model.config.get_text_config().vocab_size)
        if 4 * tokens * vocabulary <= KEPT_BYTES:
            self._base.extend(self.scorer.forced(self.texts))

    def __call__(self, plan: SteeringPlan | None) -> tuple[float, float]:
        """Mean KL, nats per token, and the mean margin; KL is inf when logits are not finite."""
        scores, kl = np.zeros(len(self.texts)), []
        for steered, plain in self._passes(plan):
            scores[steered.example] = float(steered.logprobs().double().mean())
            kl.append(kl_divergence(steered.logits, plain.logits).cpu().numpy())
        spent = float(np.concatenate(kl).mean())
        return spent if math.isfinite(spent) else math.inf, float((scores[::2] - scores[1::2]).mean())

    def _passes(self, plan: SteeringPlan | None) -> Iterator[tuple[Forced, Forced]]:
        """Steered and plain, in step; the plain ones that were kept serve every plan without a gate."""
        if gated(plan) or not self._base:
            return self.scorer.both(self.texts, plan, None)
        return zip(self.scorer.forced(self.texts, plan), self._base, strict=True)


def search(
    scorer: Scorer,
    pairs: Sequence[AnswerPair],
    candidates: Mapping[str, SteeringPlan],
    budget: float,
    settings: SearchSettings,
    progress: Progress,
) -> tuple[SitePoint, ...]:
    """All candidates on a few selection pairs, then the finalists on many."""
    found = search_sites(Probe(scorer, pairs[: settings.pairs]), candidates, budget, settings, progress)
    if len(found) == 1 or min(len(pairs), settings.final_pairs) <= settings.pairs:
        return found
    return remeasured(Probe(scorer, pairs[: settings.final_pairs]), found, candidates, settings, budget)


def search_sites(
    probe: Probe,
    candidates: Mapping[str, SteeringPlan],
    budget: float,
    settings: SearchSettings,
    progress: Progress,
) -> tuple[SitePoint, ...]:
    """One SitePoint per candidate, in their order. A site's first guess is its neighbour's strength (strengths of
    neighbours are alike and a verification follows), the closed form's at the first site."""
    base, guess, found = probe(None)[1], None, []
    for done, (site, plan) in enumerate(candidates.items()):
        progress("search", done, len(candidates))
        point, guess = _dosed(probe, site, plan, _Goal(budget, base, settings, guess))
        found.append(point)
    progress("search", len(candidates), len(candidates))
    return tuple(found)


def remeasured(
    probe: Probe,
    points: Sequence[SitePoint],
    candidates: Mapping[str, SteeringPlan],
    settings: SearchSettings,
    budget: float,
) -> tuple[SitePoint, ...]:
    """The points with their finalists measured anew by `probe`, which holds more pairs than the first one."""
    finalists = sorted(points, key=lambda point: -_score(point, budget))[: settings.finalists]
    base = probe(None)[1]
    again = {}
    for point in finalists:
        kl, margin = probe(candidates[point.site].scaled(point.strength))
        again[point.site] = replace(point, kl=kl, margin=margin - base, pairs=len(probe.pairs))
    return tuple(again.get(point.site, point) for point in points)


def best_site(points: Sequence[SitePoint], budget: float) -> str:
    """The site with the largest margin among those measured on the most pairs, brought to the budget by
    margin ~ sqrt(KL) where a site missed it a little."""
    most = max(point.pairs for point in points)
    return max((point for point in points if point.pairs == most), key=lambda point: _score(point, budget)).site


def _score(point: SitePoint, budget: float) -> float:
    return point.margin * _to_budget(point.kl, budget)


@dataclass(frozen=True)
class _Goal:
    budget: float
    base: float
    settings: SearchSettings
    guess: float | None


def _dosed(probe: Probe, site: str, plan: SteeringPlan, goal: _Goal) -> tuple[SitePoint, float | None]:
    """The site's point, and the strength to try first at the next one (None when this one gave no strength)."""
    margins = {0.0: goal.base}

    def measure(strength: float) -> float:
        kl, margins[strength] = probe(plan.scaled(strength))
        return kl

    guess = goal.guess or Calibration(probe.scorer, probe.texts, on=FORCED).guess(plan, goal.budget)
    how = Dosing(tolerance=goal.settings.tolerance, cap=goal.settings.cap)
    if not 0 < guess < math.inf:
        return SitePoint(site, 0.0, 0.0, 0.0, len(probe.pairs)), None
    found = find_strength(measure, goal.budget, guess, how)
    point = SitePoint(site, found.strength, found.achieved, margins[found.strength] - goal.base, len(probe.pairs))
    return point, found.strength if found.reachable else None


def _to_budget(kl: float, budget: float) -> float:
    within = budget / 2 < kl < budget * 2
    return math.sqrt(budget / kl) if within else 1.0
