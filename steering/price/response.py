"""Linear response: what any direction at any site would buy and cost, from a few backward passes.

A plan that goes a small way `s` changes an answer's log-probability by `s g.v` and costs

    KL(steered || base) = s^2 / 2 * v' F v,     F = E[G G'],

where v is what it adds at a site on the tokens of a span, g the gradient of that log-probability with respect to such a
vector, and G the gradient of the summed log-probability of labels that the model draws itself, one per token (Fisher's
information: both directions of KL agree to second order, and labels drawn apart make the cross terms vanish). One
backward pass gives g, or one G, at every site of the model at once. So all candidates of a search, and those of all
its placebos, cost a few passes together, however many they are.

It is the start of a curve: at budgets of tenths of a nat KL has left its parabola and effects saturate. It chooses what
to measure; it is no measurement.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import ref

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.causal.patching import whole_sites
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.pulls import ONE_DRAW, Labels, SitePlace, pulls


@dataclass(frozen=True)
class Forecast:
    """gain: of the metric, per unit strength. cost: nats of KL per token, per squared unit strength. limit: the
    largest strength that means anything."""

    gain: float
    cost: float
    limit: float = math.inf

    def strength(self, budget: float) -> float:
        """Where `budget` nats per token are spent, or the limit; inf when the plan moves no logit."""
        return min(math.sqrt(budget / self.cost) if self.cost > 0 else math.inf, self.limit)

    def effect(self, budget: float) -> float:
        """Gain of the metric at that strength; 0 when the plan moves no logit."""
        return self.gain * self.strength(budget) if self.cost > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Along:
    """How n texts respond to one plan, per unit strength. slopes: `[n]` change of the mean log-probability per
    completion token. scores: `[n draws]` change of the summed log-probability of drawn labels. tokens: completion
    tokens of all texts. limit: the plan's."""

    slopes: Float[np.ndarray, "n"]
    scores: Float[np.ndarray, "n draws"]
    tokens: int
    limit: float = math.inf

    @property
    def cost(self) -> float:
        """Nats of KL per token, per squared unit strength."""
        return float((self.scores**2).sum() / (2 * self.scores.shape[1] * self.tokens))

    def forecast(self, weights: Sequence[float] | Float[np.ndarray, "n"]) -> Forecast:
        """For the metric `sum_i weights[i] * mean log-probability of text i`, nats."""
        gain = float(np.dot(np.asarray(weights, np.float64), self.slopes))
        return Forecast(gain, self.cost, self.limit)


@dataclass(frozen=True, eq=False)
class LinearResponse:
    """How n texts respond to vectors added at places. slopes: per place `[n d]`, gradients of each text's mean
    log-probability per completion token. scores: `[n draws d]`, gradients of the summed log-probability of drawn
    labels: `F = mean over draws of scores' scores / tokens` is Fisher's matrix per token."""

    slopes: Mapping[SitePlace, Float[Tensor, "n d"]]
    scores: Mapping[SitePlace, Float[Tensor, "n draws d"]]
    tokens: int

    @classmethod
    def of(
        cls, model: PreTrainedModel, texts: Sequence[Tokens], places: Sequence[SitePlace], labels: Labels = ONE_DRAW
    ) -> "LinearResponse":
        """One forward and `1 + draws` backward passes over the texts, for all places. Raises SteeringError for a text
        without a completion."""
        anatomy = Anatomy.of(model)
        size = {place: (len(texts), 1 + labels.draws, anatomy.width(place[0])) for place in places}
        sums = {place: torch.zeros(size[place]) for place in places}
        for pull in pulls(anatomy, texts, whole_sites([site for site, _ in places]), labels):
            for place in places:
                sums[place][list(pull.texts), pull.number] = pull.summed(anatomy, place).cpu()
        slopes = {place: one[:, 0] for place, one in sums.items()}
        return cls(slopes, {place: one[:, 1:] for place, one in sums.items()}, _scored(texts))

    def along(self, additions: Sequence[tuple[SitePlace, Float[Tensor, "d"]]]) -> Along:
        """The response to vectors added at once, each at its place."""
        slopes = sum(self.slopes[place].double() @ vector.double() for place, vector in additions)
        scores = sum(self.scores[place].double() @ vector.double() for place, vector in additions)
        return Along(np.asarray(slopes), np.asarray(scores), self.tokens)

    def effect_at(
        self, budget: float, weights: Sequence[float], additions: Sequence[tuple[SitePlace, Float[Tensor, "d"]]]
    ) -> float:
        """Forecast gain of `sum_i weights[i] * mean log-probability of text i` at `budget` nats per token."""
        return self.along(additions).forecast(weights).effect(budget)


class Responses:
    """Linear responses that were computed, text by text, for whoever asks again: a method that is fitted anew on
    shuffled labels, the search that screens its candidates, the judgement of another method on the same texts.

    Those of one model, seed and set of places are kept; another set takes their place. The weights must not change."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._rows: dict[TextKey, _Rows] = {}

    def of(
        self, model: PreTrainedModel, texts: Sequence[Tokens], places: Sequence[SitePlace], labels: Labels = ONE_DRAW
    ) -> LinearResponse:
        """As `LinearResponse.of`. Texts are the same when their tokens are; who asks for fewer draws than another did
        is given the first of them."""
        key = (ref(model), frozenset(places), labels.seed)  # a model that nobody else holds is let go
        if key != self._key:
            self._key, self._rows = key, {}
        missing = {_key(text): text for text in texts if self._draws(text) < labels.draws}
        self._add(model, list(missing.values()), places, labels)
        rows = [self._rows[_key(text)] for text in texts]
        slopes = {place: torch.stack([row[place][0] for row in rows]) for place in places}
        scores = {place: torch.stack([row[place][1][: labels.draws] for row in rows]) for place in places}
        return LinearResponse(slopes, scores, _scored(texts))

    def _draws(self, text: Tokens) -> int:
        """How many were made for this text; -1 when it was not seen."""
        row = self._rows.get(_key(text))
        return -1 if row is None else next((len(scores) for _, scores in row.values()), 0)

    def _add(
        self, model: PreTrainedModel, texts: Sequence[Tokens], places: Sequence[SitePlace], labels: Labels
    ) -> None:
        if not texts:
            return
        response = LinearResponse.of(model, texts, places, labels)
        for k, text in enumerate(texts):
            self._rows[_key(text)] = {p: (response.slopes[p][k], response.scores[p][k]) for p in places}


def _key(text: Tokens) -> "TextKey":
    return text.ids.tobytes(), text.prompt_length, bytes(text.roles), bytes(text.special)


TextKey = tuple[bytes, int, bytes, bytes]
_Rows = Mapping[SitePlace, tuple[Tensor, Tensor]]  # slope `[d]` and scores `[draws d]` of one text


def added(plan: SteeringPlan) -> list[tuple[SitePlace, Float[Tensor, "d"]]] | None:
    """What a plan of vectors adds at strength 1, by place; None when it has another move."""
    vectors = [step.strength * step.move.vector for step in plan.interventions if isinstance(step.move, Add)]
    if len(vectors) < len(plan.interventions):
        return None
    return [((step.site, step.span), vector) for step, vector in zip(plan.interventions, vectors, strict=True)]


def remembered_responses(
    memo: Responses, model: PreTrainedModel, texts: Sequence[Tokens], plans: Sequence[SteeringPlan], labels: Labels
) -> list[Along]:
    """As `responses`; where all plans only add vectors, from the gradients at their places, which the memo keeps."""
    additions = [added(plan) for plan in plans]
    if any(one is None for one in additions):
        return responses(model, texts, plans, labels)
    places = dict.fromkeys(place for one in additions for place, _ in one or ())
    response = memo.of(model, texts, list(places), labels)
    return [replace(response.along(one or ()), limit=plan.limit) for one, plan in zip(additions, plans, strict=True)]


def responses(
    model: PreTrainedModel, texts: Sequence[Tokens], plans: Sequence[SteeringPlan], labels: Labels = ONE_DRAW
) -> list[Along]:
    """The texts' response to each plan, with any moves at one site or many: one forward and `1 + draws` backward
    passes for all plans.

    Slopes and scores are sums over a plan's interventions, so its cost is the square of a sum, not a sum of squares:
    vectors that pull the same way cost more together than apart. A gated move counts as where its gate is open. Raises
    SteeringError for a text without a completion.
    """
    anatomy, sums = Anatomy.of(model), np.zeros((len(plans), len(texts), 1 + labels.draws))
    sites = whole_sites([step.site for plan in plans for step in plan.interventions])
    for pull in pulls(anatomy, texts, sites, labels):
        each = [sum(pull.along(anatomy, step) for step in plan.interventions) for plan in plans]
        sums[:, list(pull.texts), pull.number] = torch.stack(each).cpu().numpy()  # type: ignore[arg-type]
    tokens = _scored(texts)
    return [Along(one[:, 0], one[:, 1:], tokens, plan.limit) for one, plan in zip(sums, plans, strict=True)]


def _scored(texts: Sequence[Tokens]) -> int:
    return sum(len(text) - text.prompt_length for text in texts)
