"""The KL governor: a bound on what steering may spend, exact at every generated token.

At a token let p0 be the base model's next-token distribution and p1 the steered one. On the geometric path

    p_t  proportional to  p0^(1-t) p1^t ,      KL(p_t || p0) = t E_t[D] - log E_0[exp(t D)] ,   D = log p1 - log p0

d/dt KL(p_t || p0) = t Var_t(D) >= 0, so the divergence only grows with t and the largest t in [0, 1] with
KL(p_t || p0) <= budget is one root. The governor answers from p_t: within budget t = 1 and the logits are the
steered ones to the bit; otherwise as much of the steering as the budget buys. By the chain rule a T-token answer
stays within T * budget, or within a sequence budget that is spent token by token. The bound holds for the model's own
next-token distribution, before sampling processors (temperature, top-p) that the caller adds.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError

BACKING_OFF = (1 - 1e-6, 1 - 1e-4, 0.99, 0.9, 0.5, 0.0)
STEPS = 60  # safeguarded Newton: halves the bracket at least every other step, so t is exact to the last bits


@dataclass(frozen=True)
class Governor:
    """per_token: nats that one token may spend. sequence: nats that a whole answer may spend (None: no such bound)."""

    per_token: float
    sequence: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("per_token", self.per_token), ("sequence", self.sequence)):
            if value is not None and not value >= 0:
                raise SteeringError(f"the governor's {name} budget is {value} nats; a KL budget is 0 or more")


@dataclass
class Ledger:
    """What the governor did, one entry per generated token and row, `[b]` each, nats except `share`.

    asked: KL(steered || base) that the plan would have spent. spent: KL(mixed || base). share: t, 1 where the plan was
    within its budget.
    """

    asked: list[Float[Tensor, "b"]] = field(default_factory=list)
    spent: list[Float[Tensor, "b"]] = field(default_factory=list)
    share: list[Float[Tensor, "b"]] = field(default_factory=list)

    def total(self) -> Float[Tensor, "b"] | float:
        """Nats spent so far per row."""
        return torch.stack(self.spent).sum(0) if self.spent else 0.0

    def held_back(self) -> float:
        """Share of tokens at which the governor acted."""
        return float((torch.stack(self.share) < 1).float().mean()) if self.share else 0.0


class Account:
    """The governor at work on one batch: applies the budgets to each pass's logits and keeps the ledger."""

    def __init__(self, governor: Governor):
        self.governor = governor
        self.ledger = Ledger()
        self._left: Tensor | None = None

    def new_answer(self) -> None:
        """Every row's sequence budget is whole again."""
        self._left = None

    def mix(self, steered: Float[Tensor, "b s v"], base: Float[Tensor, "b s v"]) -> Float[Tensor, "b s v"]:
        """Governed logits of one pass, position by position in order (a sequence budget is spent left to right)."""
        columns = [self._column(steered[:, k], base[:, k]) for k in range(steered.shape[1])]
        return torch.stack(columns, dim=1)

    def _column(self, steered: Float[Tensor, "b v"], base: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        budget = self._budget(steered)
        mixed, share, asked, spent = govern(base, steered, budget)
        for entries, value in (
            (self.ledger.asked, asked),
            (self.ledger.spent, spent),
            (self.ledger.share, share),
        ):
            entries.append(value.cpu())
        if self._left is not None:
            self._left = (self._left - spent).clamp(min=0)
        return mixed

    def _budget(self, like: Tensor) -> Float[Tensor, "b"]:
        rows = like.shape[0]
        per_token = torch.full((rows,), self.governor.per_token, dtype=torch.float64, device=like.device)
        if self.governor.sequence is None:
            return per_token
        if self._left is None or len(self._left) != rows:
            self._left = torch.full_like(per_token, self.governor.sequence)
        return torch.minimum(per_token, self._left)


def divergence_on_path(base: Float[Tensor, "n v"], steered: Float[Tensor, "n v"], t: Float[Tensor, "n"]) -> Tensor:
    """KL(p_t || p_0), nats, `[n]` float64, from log-probabilities in float64."""
    path = ((1 - t)[:, None] * base + t[:, None] * steered).log_softmax(-1)
    return _kl(path, base)


def largest_share(
    base: Float[Tensor, "n v"], steered: Float[Tensor, "n v"], budget: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """The largest t in [0, 1] with KL(p_t || p_0) <= budget, from float64 log-probabilities; never above it."""
    n = base.shape[0]
    low, high = base.new_zeros(n), base.new_ones(n)
    within = _kl(steered, base) <= budget
    t = torch.full_like(low, 0.5)
    difference = steered - base
    for _ in range(STEPS):
        path = ((1 - t)[:, None] * base + t[:, None] * steered).log_softmax(-1)
        value, slope = _kl(path, base), t * _variance(path, difference)
        fits = value <= budget
        low, high = torch.where(fits, t, low), torch.where(fits, high, t)
        newton = t - (value - budget) / slope.clamp(min=1e-300)
        inside = (newton > low) & (newton < high)
        following = torch.where(inside, newton, (low + high) / 2)
        if bool(((high - low) < 1e-12).logical_or(within).all()) or torch.equal(following, t):
            break
        t = following
    return torch.where(within, torch.ones_like(low), low)


def govern(
    base: Float[Tensor, "n v"], steered: Float[Tensor, "n v"], budget: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n v"], Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Mixed logits in the steered logits' dtype, then share, asked and spent per row.

    Rows within budget get the steered logits to the bit. The bound is checked on what is returned: rounding to a half
    precision can push a row past its budget, and then its share shrinks until it fits.
    """
    path = _Path(base, steered)
    asked = _kl(path.p1, path.p0)
    share = largest_share(path.p0, path.p1, budget)
    out = path.logits(share)
    spent = path.cost(out)
    for factor in BACKING_OFF:
        over = (spent > budget) & (share > 0)
        if not bool(over.any()):
            break
        share = torch.where(over, share * factor, share)
        out = path.logits(share)
        spent = path.cost(out)
    return out, share, asked, spent


@dataclass(frozen=True, eq=False)
class _Path:
    """The geometric path from base to steered logits `[n v]`; its ends are those logits to the bit."""

    base: Tensor
    steered: Tensor

    @cached_property
    def p0(self) -> Tensor:
        return self.base.double().log_softmax(-1)

    @cached_property
    def p1(self) -> Tensor:
        return self.steered.double().log_softmax(-1)

    def logits(self, t: Float[Tensor, "n"]) -> Float[Tensor, "n v"]:
        """In the steered logits' dtype."""
        share = t[:, None]
        mixed = ((1 - share) * self.p0 + share * self.p1).log_softmax(-1).to(self.steered.dtype)
        return torch.where(share >= 1, self.steered, torch.where(share <= 0, self.base, mixed))

    def cost(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, "n"]:
        """KL to the base, nats."""
        return _kl(logits.double().log_softmax(-1), self.p0)


def _kl(p: Float[Tensor, "n v"], q: Float[Tensor, "n v"]) -> Float[Tensor, "n"]:
    """KL(p || q) from log-probabilities; 0 log 0 = 0."""
    weight = p.exp()
    return torch.where(weight > 0, weight * (p - q), 0.0).sum(-1).clamp(min=0)


def _variance(p: Float[Tensor, "n v"], x: Float[Tensor, "n v"]) -> Float[Tensor, "n"]:
    weight = p.exp()
    mean = (weight * x).sum(-1, keepdim=True)
    return (weight * (x - mean) ** 2).sum(-1)
