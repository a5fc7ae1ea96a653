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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.causal.gradients import traced
from trimtab.steering.causal.head_scales import frozen
from trimtab.steering.causal.patching import columns_of, whole_sites
from trimtab.steering.errors import SteeringError
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import batches, pad_right
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Positions, Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.base import Move, Turn
from trimtab.steering.moves.gated import ungated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

PASS_TOKENS = 512  # of one forward pass whose graph is kept
_STEP = 1e-3  # strength over which a turn is differentiated

Place = tuple[Site, Span]


@dataclass(frozen=True)
class Labels:
    """Labels drawn from the model at every scored token. draws: per token; the relative error of a forecast cost is
    about sqrt(2 / (draws x texts)). seed: text k draws from a stream of its own, whatever it is batched with."""

    draws: int = 1
    seed: int = 0

    def stream(self, text: int) -> torch.Generator:
        """What the labels of text number `text` are drawn from."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + text)


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

    def forecast(self, weights: Sequence[float] | Float[np.ndarray, "n"]) -> Forecast:
        """For the metric `sum_i weights[i] * mean log-probability of text i`, nats."""
        gain = float(np.dot(np.asarray(weights, np.float64), self.slopes))
        return Forecast(gain, float((self.scores**2).sum() / (2 * self.scores.shape[1] * self.tokens)), self.limit)


@dataclass(frozen=True, eq=False)
class LinearResponse:
    """How n texts respond to vectors added at places. slopes: per place `[n d]`, gradients of each text's mean
    log-probability per completion token. scores: `[n draws d]`, gradients of the summed log-probability of drawn
    labels: `F = mean over draws of scores' scores / tokens` is Fisher's matrix per token."""

    slopes: Mapping[Place, Float[Tensor, "n d"]]
    scores: Mapping[Place, Float[Tensor, "n draws d"]]
    tokens: int

    @classmethod
    def of(
        cls, model: PreTrainedModel, texts: Sequence[Tokens], places: Sequence[Place], labels: Labels = Labels()
    ) -> "LinearResponse":
        """One forward and `1 + draws` backward passes over the texts, for all places. Raises SteeringError for a text
        without a completion."""
        anatomy = Anatomy.of(model)
        size = {place: (len(texts), 1 + labels.draws, anatomy.width(place[0])) for place in places}
        pulls = {place: torch.zeros(size[place]) for place in places}
        for pull in _pulls(anatomy, texts, whole_sites([site for site, _ in places]), labels):
            for place in places:
                pulls[place][list(pull.texts), pull.number] = pull.summed(anatomy, place).cpu()
        slopes = {place: found[:, 0] for place, found in pulls.items()}
        return cls(slopes, {place: found[:, 1:] for place, found in pulls.items()}, _scored(texts))

    def along(self, additions: Sequence[tuple[Place, Float[Tensor, "d"]]]) -> Along:
        """The response to vectors added at once, each at its place."""
        slopes = sum(self.slopes[place].double() @ vector.double() for place, vector in additions)
        scores = sum(self.scores[place].double() @ vector.double() for place, vector in additions)
        return Along(np.asarray(slopes), np.asarray(scores), self.tokens)

    def effect_at(
        self, budget: float, weights: Sequence[float], additions: Sequence[tuple[Place, Float[Tensor, "d"]]]
    ) -> float:
        """Forecast gain of `sum_i weights[i] * mean log-probability of text i` at `budget` nats per token."""
        return self.along(additions).forecast(weights).effect(budget)


def responses(
    model: PreTrainedModel, texts: Sequence[Tokens], plans: Sequence[SteeringPlan], labels: Labels = Labels()
) -> list[Along]:
    """The texts' response to each plan, with any moves: one forward and `1 + draws` backward passes for all plans.

    A gated move counts as where its gate is open. Raises SteeringError for a text without a completion.
    """
    anatomy, found = Anatomy.of(model), np.zeros((len(plans), len(texts), 1 + labels.draws))
    sites = whole_sites([step.site for plan in plans for step in plan.interventions])
    for pull in _pulls(anatomy, texts, sites, labels):
        each = [sum(pull.along(anatomy, step) for step in plan.interventions) for plan in plans]
        found[:, list(pull.texts), pull.number] = torch.stack(each).cpu().numpy()  # type: ignore[arg-type]
    tokens = _scored(texts)
    return [Along(one[:, 0], one[:, 1:], tokens, plan.limit) for one, plan in zip(found, plans, strict=True)]


class _Pull:
    """One backward pass over a batch. number: 0 for the given completions, k for the labels drawn k-th."""

    def __init__(self, batch: "_Batch", number: int, values: Mapping[Site, Tensor], slopes: Mapping[Site, Tensor]):
        self.texts, self.number = batch.texts, number
        self._positions, self._values, self._slopes = batch.positions, values, slopes
        self._sums: dict[Place, Tensor] = {}

    def summed(self, anatomy: Anatomy, place: Place) -> Float[Tensor, "b d"]:
        """Gradient with respect to a vector added on the span's tokens, per row."""
        if place not in self._sums:
            site, span = place
            mask = span.mask(self._positions).to(self._slopes[site.whole].device)
            whole = (self._slopes[site.whole].float() * mask[..., None]).sum(1)
            self._sums[place] = whole[:, columns_of(anatomy, site)]
        return self._sums[place]

    def along(self, anatomy: Anatomy, step: Intervention) -> Float[Tensor, "b"]:
        """Derivative by the strength of one intervention, per row."""
        move = ungated(step.move)
        if isinstance(move, Add):
            found = self.summed(anatomy, (step.site, step.span)) @ move.vector.to(self._slopes[step.site.whole].device)
        else:
            columns, whole = columns_of(anatomy, step.site), step.site.whole
            way = _tangent(move, self._values[whole][..., columns].float())
            mask = step.span.mask(self._positions).to(way.device)
            found = ((self._slopes[whole][..., columns].float() * way).sum(-1) * mask).sum(1)
        return step.strength * found.double()


def _tangent(move: Move, h: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
    """Derivative of `moved` by the strength, at strength 0."""
    if isinstance(move, Turn):
        return (move.moved(h, _STEP) - move.moved(h, -_STEP)) / (2 * _STEP)
    return move.delta(h)


@dataclass(frozen=True, eq=False)
class _Batch:
    """texts: their numbers. ids: `[b s]`, padded behind. positions: of the tokens. rows: the texts."""

    texts: Sequence[int]
    ids: Tensor
    positions: Positions
    rows: Sequence[Tokens]

    @classmethod
    def of(cls, texts: Sequence[Tokens], numbers: Sequence[int], device: torch.device) -> "_Batch":
        rows = [texts[k] for k in numbers]
        ids = pad_right(rows, device)
        place = torch.arange(ids.shape[1]).expand(ids.shape)
        lengths, prompts = (torch.tensor([n(row) for row in rows]) for n in (len, lambda row: row.prompt_length))
        return cls(numbers, ids, Positions(torch.where(place < lengths[:, None], place, -1), prompts), rows)

    def logprobs(self, model: PreTrainedModel) -> list[Float[Tensor, "n v"]]:
        """Per row, log-probabilities at the positions that write its completion."""
        first = min(row.prompt_length for row in self.rows) - 1
        logits = model(input_ids=self.ids, use_cache=False, logits_to_keep=self.ids.shape[1] - first).logits
        ends = [(row.prompt_length - 1 - first, len(row) - 1 - first) for row in self.rows]
        return [logits[k, start:end].float().log_softmax(-1) for k, (start, end) in enumerate(ends)]


def _pulls(anatomy: Anatomy, texts: Sequence[Tokens], sites: Sequence[Site], labels: Labels) -> Iterator[_Pull]:
    empty = sum(len(text) == text.prompt_length for text in texts)
    if empty or not texts:
        raise SteeringError(f"{empty} of {len(texts)} texts have no completion; nothing is scored in them")
    device = anatomy.device
    streams = [labels.stream(k) for k in range(len(texts))]
    for numbers in batches([len(text) for text in texts], PASS_TOKENS):
        batch = _Batch.of(texts, numbers, device)
        yield from _pulled(anatomy, batch, sites, [streams[k] for k in numbers], labels.draws)


def _pulled(
    anatomy: Anatomy, batch: _Batch, sites: Sequence[Site], streams: Sequence[torch.Generator], draws: int
) -> list[_Pull]:
    """One forward pass, and its backward passes."""
    with frozen(anatomy.model), traced(anatomy, sites) as held:
        rows = batch.logprobs(anatomy.model)
        targets = [_given(rows, batch.rows), *(_drawn(rows, streams) for _ in range(draws))]
        ends = [held[site] for site in sites]
        slopes = [torch.autograd.grad(y, ends, retain_graph=k < draws) for k, y in enumerate(targets)]
    values = {site: held[site].detach() for site in sites}
    return [_Pull(batch, k, values, dict(zip(sites, found, strict=True))) for k, found in enumerate(slopes)]


def _given(rows: Sequence[Float[Tensor, "n v"]], texts: Sequence[Tokens]) -> Tensor:
    """Sum over rows (which do not see each other) of the completion's mean log-probability."""
    ids = [torch.from_numpy(text.ids[text.prompt_length :]).to(rows[0].device) for text in texts]
    return torch.stack([row.gather(-1, y[:, None]).mean() for row, y in zip(rows, ids, strict=True)]).sum()


def _drawn(rows: Sequence[Float[Tensor, "n v"]], streams: Sequence[torch.Generator]) -> Tensor:
    """The same of the summed log-probability of labels drawn from the rows themselves."""
    total = []
    for row, stream in zip(rows, streams, strict=True):
        total.append(row.gather(-1, drawn_labels(row.detach(), stream)[:, None]).sum())
    return torch.stack(total).sum()


def drawn_labels(logprobs: Float[Tensor, "n v"], stream: torch.Generator) -> Int[Tensor, "n"]:
    """One label per row, by where a uniform number falls in the cumulated probabilities: alike on every device."""
    height = torch.rand(len(logprobs), 1, generator=stream).to(logprobs.device)
    return (logprobs.exp().cumsum(-1) < height).sum(-1).clamp(max=logprobs.shape[-1] - 1)


def _scored(texts: Sequence[Tokens]) -> int:
    return sum(len(text) - text.prompt_length for text in texts)
