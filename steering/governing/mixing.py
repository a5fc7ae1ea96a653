"""Mixing: the distribution nearest to the steered one whose KL divergence to the base is within a budget, at one token.

Let p0 be the base model's next-token distribution and p1 the steered one. On the geometric path

    p_t  proportional to  p0^(1-t) p1^t ,      KL(p_t || p0) = t E_t[D] - log E_0[exp(t D)] ,   D = log p1 - log p0

d/dt KL(p_t || p0) = t Var_t(D) >= 0, so the divergence never falls with t, and the largest t in [0, 1] with
KL(p_t || p0) <= budget is found as the root of one equation. Of all distributions p within the budget, this p_t has the
least KL(p || p1).

Logits processors such as top-k forbid tokens (logit -inf), and may forbid different ones in p0 and p1:

* forbidden by p0: forbidden in the mixture too, since its KL divergence would be infinite;
* forbidden by p1 only (D is minus infinity): the path first moves the probability of these tokens to the others, then
  goes on from that distribution to p1. If removing it all already exceeds the budget, the path ends part of the way;
* no token is allowed by both: the mixture is p0.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.steering.model.divergence import kl_of_logprobs

BACKING_OFF = (1 - 1e-6, 1 - 1e-4, 0.99, 0.9, 0.5, 0.0)
STEPS = 60  # at most, of Newton with bisection as safeguard; it stops once t is known to 1e-12
FORBIDDEN = -1e30  # processors forbid by -inf, or by the least finite number (`remove_invalid_values`)
GONE = 60.0  # subtracted from the log-probability of a token to remove it: e^-60 of its probability is left


@dataclass(frozen=True, eq=False)
class Mixed:
    """logits: `[n v]` within the budget, in the steered logits' dtype. Per row `[n]`, float64: uncapped, KL(steered
    || base) in nats, inf where only the base forbids a token; spent, KL(mixed || base) in nats; share, the t of the
    path. acted: `[n]`, False where the steered logits are within the budget and are returned bit for bit."""

    logits: Float[Tensor, "n v"]
    uncapped: Float[Tensor, "n"]
    spent: Float[Tensor, "n"]
    share: Float[Tensor, "n"]
    acted: Bool[Tensor, "n"]


def govern(base: Float[Tensor, "n v"], steered: Float[Tensor, "n v"], budget: Float[Tensor, "n"]) -> Mixed:
    """The steered logits where they are within `budget` nats of the base; elsewhere the mixture that just fits it.

    The bound is checked on the returned logits in their own dtype: rounding to half precision can push a row past its
    budget, and then its share is reduced until the row fits (at last to 0, the base logits).
    """
    path = _path(base, steered, budget)
    share = largest_share(path, budget)
    logits = path.logits(share)
    spent = path.cost(logits)
    for factor in BACKING_OFF:
        over = path.acted & (spent > budget)
        if not bool(over.any()):
            break
        share = torch.where(over, share * factor, share)
        logits = path.logits(share)
        spent = path.cost(logits)
    over = path.acted & ~(spent <= budget)
    logits = torch.where(over[:, None], base.to(steered.dtype), logits)
    return Mixed(logits, path.uncapped, torch.where(over, 0.0, spent), torch.where(over, 0.0, share), path.acted)


def largest_share(path: "Path", budget: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The largest t in [0, 1] with KL(p_t || p0) <= budget, by Newton steps inside a bracket; rounded down, so the
    bound always holds."""
    low, high = budget.new_zeros(len(budget)), budget.new_ones(len(budget))
    if not bool(path.acted.any()):
        return high
    whole = ~path.acted | (path.divergence(high) <= budget)
    t = torch.full_like(low, 0.5)
    for _ in range(STEPS):
        value, slope = path.divergence_and_slope(t)
        fits = value <= budget
        low, high = torch.where(fits, t, low), torch.where(fits, high, t)
        newton = t - (value - budget) / slope.clamp(min=1e-300)
        inside = (newton > low) & (newton < high)
        following = torch.where(inside, newton, (low + high) / 2)
        if bool(((high - low) < 1e-12).logical_or(whole).all()) or torch.equal(following, t):
            break
        t = following
    return torch.where(whole, torch.ones_like(low), low)


@dataclass(frozen=True, eq=False)
class Path:
    """From base to steered logits `[n v]`. start, end: log-probabilities, float64, finite; allowed: the tokens that
    the path gives mass to, None for all. acted: rows whose steered logits are beyond the budget."""

    base: Tensor
    steered: Tensor
    start: Tensor
    end: Tensor
    uncapped: Tensor
    acted: Tensor
    allowed: Tensor | None = None

    @cached_property
    def p0(self) -> Tensor:
        return _log_softmax(self.base)

    def at(self, t: Float[Tensor, "n"]) -> Tensor:
        """log p_t, `[n v]` float64."""
        mixed = (1 - t)[:, None] * self.start + t[:, None] * self.end
        mixed = mixed if self.allowed is None else mixed.masked_fill(~self.allowed, -torch.inf)
        return mixed.log_softmax(-1)

    def divergence(self, t: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """KL(p_t || p0), nats."""
        return _nats(self.at(t), self.p0)

    def divergence_and_slope(self, t: Float[Tensor, "n"]) -> tuple[Tensor, Tensor]:
        """KL(p_t || p0) and its derivative t Var_t(D)."""
        path = self.at(t)
        return _nats(path, self.p0), t * _variance(path, self.end - self.start)

    @cached_property
    def _from_base(self) -> Bool[Tensor, "n"]:
        """Rows whose path begins at p0 itself, because the steered distribution forbids none of its tokens."""
        open_base = _open(self.base)
        return (open_base if self.allowed is None else self.allowed == open_base).all(-1)

    def logits(self, t: Float[Tensor, "n"]) -> Tensor:
        """Logits of p_t in the steered logits' dtype: the steered ones bit for bit in rows within the budget, the
        base's where t is 0 or both distributions are the same."""
        unmoved = self._from_base & ((t <= 0) | (self.start == self.end).all(-1))
        mixed = torch.where(unmoved[:, None], self.base.to(self.steered.dtype), self.at(t).to(self.steered.dtype))
        return torch.where(self.acted[:, None], mixed, self.steered)

    def cost(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, "n"]:
        """KL(softmax(logits) || p0), nats."""
        return _nats(_log_softmax(logits), self.p0)


def _path(base: Tensor, steered: Tensor, budget: Tensor) -> Path:
    p0, p1 = _log_softmax(base), _log_softmax(steered)
    uncapped = _nats(p1, p0)
    path = Path(base, steered, p0, p1, uncapped, ~(uncapped <= budget))
    return path if bool((_open(base) & _open(steered)).all()) else _crossing(path, budget)


def _crossing(path: Path, budget: Tensor) -> Path:
    """The path for rows in which some tokens are forbidden by the base, by the steered distribution or by both."""
    open_base = _open(path.base)
    shared = open_base & _open(path.steered)
    lost = (open_base & ~shared).any(-1)
    taken_off = torch.where(lost, -path.start.masked_fill(~shared, -torch.inf).logsumexp(-1), 0.0)
    reached = (taken_off <= budget)[:, None]
    allowed = torch.where(reached, shared, open_base)
    on_the_way = path.start - torch.where(shared | ~shared.any(-1, keepdim=True), 0.0, GONE)
    end = torch.where(reached, path.end, on_the_way)
    return replace(path, start=_filled(path.start, allowed), end=_filled(end, allowed), allowed=allowed)


def _open(logits: Tensor) -> Tensor:
    return logits > FORBIDDEN


def _filled(p: Tensor, allowed: Tensor) -> Tensor:
    return torch.where(allowed, p, 0.0)


def _log_softmax(logits: Tensor) -> Tensor:
    wide = logits.double()
    return wide.masked_fill(wide <= FORBIDDEN, -torch.inf).log_softmax(-1)


def _nats(p: Float[Tensor, "n v"], q: Float[Tensor, "n v"]) -> Float[Tensor, "n"]:
    """KL(p || q) from log-probabilities; negative results of rounding are set to 0."""
    return kl_of_logprobs(p, q).clamp(min=0)


def _variance(p: Tensor, x: Tensor) -> Tensor:
    weight = p.exp()
    mean = (weight * x).sum(-1, keepdim=True)
    return (weight * (x - mean) ** 2).sum(-1)
