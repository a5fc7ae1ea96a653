"""Losses that methods share. Each is a mean that does not grow with the batch, in the units its docstring names."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

LogProbs = Sequence[Float[Tensor, "n v"]]  # per text, at the positions that write its completion


def margin(logprobs: Sequence[Float[Tensor, "n"]]) -> Float[Tensor, ""]:
    """Mean over pairs of `log p(positive) - log p(negative)`, each per token; nats per token.

    logprobs: of the completions' tokens, positive and negative text of each pair in turn."""
    means = torch.stack([of_text.mean() for of_text in logprobs])
    return (means[::2] - means[1::2]).mean()


def preference(
    steered: Float[Tensor, "2n"], base: Float[Tensor, "2n"], beta: float, sign: Float[Tensor, "n"]
) -> Float[Tensor, ""]:
    """`mean -log sigmoid(beta * sign * ((s+ - b+) - (s- - b-)))`, the loss of DPO (Rafailov et al. 2023, arXiv
    2305.18290, equation 7); with a sign that is drawn, of BiPO (Cao et al. 2024, arXiv 2406.00045, equation 3).

    steered, base: summed log-probability of each completion under the plan and without it, positive and negative of
    each pair in turn. sign: 1 where the plan is meant to prefer the positive answer, -1 where the negative."""
    gain = steered - base
    return -torch.nn.functional.logsigmoid(beta * sign * (gain[::2] - gain[1::2])).mean()


def divergence(steered: LogProbs, base: LogProbs) -> Float[Tensor, ""]:
    """KL(steered || base), mean nats per completion token."""
    per_token = [(s.exp() * (s - b)).sum(-1) for s, b in zip(steered, base, strict=True)]
    return torch.cat(per_token).mean()


def wasserstein(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Float[Tensor, "d"]:
    """Squared 2-Wasserstein distance of each coordinate's two samples: the mean squared difference of the sorted
    values (LinEAS, Rodriguez et al. 2025, arXiv 2503.10679). Samples of unequal size are compared at the quantiles of
    the source, between which the target is interpolated."""
    return (source.sort(0).values - at_quantiles(target, len(source))).square().mean(0)


def at_quantiles(sample: Float[Tensor, "m d"], n: int) -> Float[Tensor, "n d"]:
    """Sorted values at the n quantiles (i + 1/2) / n; the sorted sample itself when n is its size."""
    ordered = sample.sort(0).values
    m = len(ordered)
    place = (((torch.arange(n, device=sample.device) + 0.5) / n) * m - 0.5).clamp(0, m - 1)
    low = place.floor().long()
    share = (place - low)[:, None].to(sample.dtype)
    return ordered[low] * (1 - share) + ordered[(low + 1).clamp(max=m - 1)] * share
