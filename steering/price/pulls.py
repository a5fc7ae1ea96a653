"""Backward passes over texts: gradients of log-probabilities at many sites, from one pass for all of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.steering.causal.gradients import traced
from trimtab.steering.causal.patching import columns_of
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import batches
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.base import Move, Turn
from trimtab.steering.moves.gated import ungated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.running.padded_texts import PaddedTexts, check_completions, completion_logprobs

PASS_TOKENS = 512  # of one forward pass whose graph is kept
_STEP = 1e-3  # strength over which a turn is differentiated

SitePlace = tuple[Site, Span]


@dataclass(frozen=True)
class Labels:
    """Labels drawn from the model at every scored token. draws: per token; the relative error of a forecast cost is
    about sqrt(2 / (draws x texts)). seed: every text draws from a stream of its own, whatever stands beside it."""

    draws: int = 1
    seed: int = 0

    def stream(self, text: Tokens) -> torch.Generator:
        """What the labels of a text are drawn from, named by its tokens."""
        name = crc32(text.ids.tobytes(), text.prompt_length)
        return torch.Generator().manual_seed(self.seed * 1_000_003 + name)


ONE_DRAW = Labels()


class Pull:
    """One backward pass over a batch. number: 0 for the given completions, k for the labels drawn k-th."""

    def __init__(self, batch: "_Batch", number: int, values: Mapping[Site, Tensor], slopes: Mapping[Site, Tensor]):
        self.texts, self.number = batch.numbers, number
        self._positions, self._values, self._slopes = batch.padded.positions, values, slopes
        self._sums: dict[SitePlace, Tensor] = {}

    def summed(self, anatomy: Anatomy, place: SitePlace) -> Float[Tensor, "b d"]:
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
            change = self.summed(anatomy, (step.site, step.span)) @ move.vector.to(self._slopes[step.site.whole].device)
        else:
            columns, whole = columns_of(anatomy, step.site), step.site.whole
            way = _tangent(move, self._values[whole][..., columns].float())
            mask = step.span.mask(self._positions).to(way.device)
            change = ((self._slopes[whole][..., columns].float() * way).sum(-1) * mask).sum(1)
        return step.strength * change.double()


def _tangent(move: Move, h: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
    """Derivative of `moved` by the strength, at strength 0."""
    if isinstance(move, Turn):
        return (move.moved(h, _STEP) - move.moved(h, -_STEP)) / (2 * _STEP)
    return move.delta(h)


@dataclass(frozen=True, eq=False)
class _Batch:
    """numbers: of its texts among all. padded: the texts."""

    numbers: Sequence[int]
    padded: PaddedTexts


def pulls(anatomy: Anatomy, texts: Sequence[Tokens], sites: Sequence[Site], labels: Labels) -> Iterator[Pull]:
    """Every backward pass over the texts: per batch, that of the completions and those of drawn labels. sites: whole
    ones. Raises SteeringError for a text without a completion."""
    check_completions(texts)
    streams = [labels.stream(text) for text in texts]
    for numbers in batches([len(text) for text in texts], PASS_TOKENS):
        batch = _Batch(numbers, PaddedTexts.of([texts[k] for k in numbers], anatomy.device))
        yield from _pulled(anatomy, batch, sites, [streams[k] for k in numbers], labels.draws)


def _pulled(
    anatomy: Anatomy, batch: _Batch, sites: Sequence[Site], streams: Sequence[torch.Generator], draws: int
) -> list[Pull]:
    """One forward pass, and its backward passes."""
    with frozen(anatomy.model), traced(anatomy, sites) as values:
        rows = batch.padded.logprobs(anatomy.model)
        targets = [_completions(rows, batch.padded.texts), *(_drawn(rows, streams) for _ in range(draws))]
        ends = [values[site] for site in sites]
        slopes = [torch.autograd.grad(y, ends, retain_graph=k < draws) for k, y in enumerate(targets)]
    detached = {site: values[site].detach() for site in sites}
    return [Pull(batch, k, detached, dict(zip(sites, one, strict=True))) for k, one in enumerate(slopes)]


def _completions(rows: Sequence[Float[Tensor, "n v"]], texts: Sequence[Tokens]) -> Tensor:
    """Sum over rows (which do not see each other) of the completion's mean log-probability."""
    return torch.stack([of_text.mean() for of_text in completion_logprobs(rows, texts)]).sum()


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
