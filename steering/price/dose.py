"""dose: the strength at which a plan costs what was asked, within a tolerance, or the news that there is none.

First guess by the Fisher closed form, then verification where the budget binds, then secant steps on log KL against
log strength (a line of slope 2 near 0) inside a bracket, with bisection when the secant stalls. KL need not be
monotone in the strength, the two signs cost differently, and KL saturates because the final norm forgets scale: so
each sign is searched apart, every verification is kept, and "unreachable" is a result.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.closed_form import fisher_strength, fisher_variances
from trimtab.steering.price.kl import divergences, roll_out, steered_from_base
from trimtab.steering.price.result import Dose
from trimtab.steering.price.rollouts import mean_divergence, rolled_divergences
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding

ROLLOUTS = "rollouts"
FORCED = "forced"

_GROWTH = 8.0  # largest step of the strength without a bracket, up or down
_SLOPES = (0.5, 4.0)  # trusted range of d log KL / d log strength
_FLAT = 0.02  # a step of the strength that changes log KL by less than this share of the step is saturation
_CLOSED = 1.003  # a bracket narrower than this has a jump inside (sampled text changes by whole tokens)


@dataclass(frozen=True)
class Dosing:
    """tolerance: accepted relative error of the KL. sign: +1 or -1, the side of the plan. cap: most verifications.
    guess: a first strength from elsewhere (skips the closed form). quantile: of the Fisher form, None for the mean."""

    tolerance: float = 0.1
    sign: int = 1
    cap: int = 10
    guess: float | None = None
    quantile: float | None = None

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise SteeringError(f"sign is {self.sign}; a plan is dosed on its own side (+1) or the other (-1)")
        if not 0 < self.tolerance < 1 or self.cap < 1:
            raise SteeringError(f"tolerance {self.tolerance} must be in (0, 1) and cap {self.cap} at least 1")


@dataclass
class Calibration:
    """Where a KL is measured: mean KL(steered || base), nats per token, over `prompts`, at the decoding's temperature.

    on: "rollouts", text that the steered model writes after each prompt (what the budget binds), or "forced", the
    completions that the prompts carry (cheaper, for searches). passes: forward passes over the prompts so far, where
    one generated token counts as one.
    """

    scorer: Scorer
    prompts: Sequence[Tokens]
    decoding: Decoding = Decoding()
    on: str = ROLLOUTS
    passes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.on not in (ROLLOUTS, FORCED):
            raise SteeringError(f"KL can be calibrated on '{ROLLOUTS}' or '{FORCED}', not on '{self.on}'")
        if self.on == FORCED and not any(len(text) > text.prompt_length for text in self.prompts):
            raise SteeringError("KL on forced text needs prompts with completions; these have none")

    @cached_property
    def base_texts(self) -> list[Tokens]:
        """Text of the unsteered model after each prompt (or the given completions): where slopes are taken."""
        if self.on == FORCED:
            return list(self.prompts)
        self.passes += self.decoding.max_new_tokens
        return roll_out(self.scorer.model, None, self.prompts, self.decoding)

    def kl(self, plan: SteeringPlan) -> float:
        """Mean nats per token; inf when the steered logits are not finite."""
        return self.kls([plan])[0]

    @property
    def cost(self) -> int:
        """Passes of one verification."""
        return 2 if self.on == FORCED else self.decoding.max_new_tokens + 1

    def kls(self, plans: Sequence[SteeringPlan]) -> list[float]:
        """The same for several plans, which write side by side. Strength 0 is the identity to the bit and costs 0."""
        moving = [plan for plan in plans if any(step.strength for step in plan.interventions)]
        spent = iter(self._measured(moving) if moving else [])
        return [next(spent) if plan in moving else 0.0 for plan in plans]

    def _measured(self, plans: Sequence[SteeringPlan]) -> list[float]:
        self.passes += self.cost * len(plans)
        if self.on == FORCED:
            return [self._forced(plan) for plan in plans]
        return [mean_divergence(found) for found in rolled_divergences(self.scorer, plans, self.prompts, self.decoding)]

    def _forced(self, plan: SteeringPlan) -> float:
        return mean_divergence(divergences(self.scorer, self.prompts, steered_from_base(plan, self.decoding.sampling)))

    def guess(self, plan: SteeringPlan, budget: float, quantile: float | None = None) -> float:
        """Strength of the Fisher closed form on the base texts; inf when the plan moves no logit."""
        variances, passes = fisher_variances(self.scorer, plan, self.base_texts)
        self.passes += passes
        return fisher_strength(variances, budget, quantile)


def check_budget(target: float) -> None:
    """Raises SteeringError for a budget that is not a number above 0."""
    if not (math.isfinite(target) and target > 0):
        raise SteeringError(f"a KL budget of {target} nats cannot be dosed to; give a number above 0")


@dataclass(frozen=True)
class Found:
    """strength >= 0 and the KL there; history: (strength, KL) of every measurement; reachable: within tolerance."""

    strength: float
    achieved: float
    reachable: bool
    history: tuple[tuple[float, float], ...]


def dose(
    model: PreTrainedModel,
    plan: SteeringPlan,
    prompts: Sequence[Tokens],
    target: float,
    tolerance: float = 0.1,
    sign: int = 1,
) -> tuple[SteeringPlan, Dose]:
    """The plan scaled so that its rollouts on `prompts` cost `target` nats per token, and how that was found.

    No strength beyond `plan.limit` is tried: a projection is done at 1, and what it costs then is what it can cost.
    When no strength tried came within `tolerance` the dose says so (`reachable` False), and the plan is scaled to the
    dearest strength tried that stays below the target. Raises SteeringError for a target that is not above 0.
    """
    return dose_on(Calibration(Scorer(model), prompts), plan, target, Dosing(tolerance, sign))


def dose_on(
    calibration: Calibration, plan: SteeringPlan, target: float, how: Dosing = Dosing()
) -> tuple[SteeringPlan, Dose]:
    """`dose` with the calibration shared between plans, so that base texts and prompt caches are made once."""
    return dose_together(calibration, [plan], target, how)[0]


def dose_together(
    calibration: Calibration,
    plans: Sequence[SteeringPlan],
    target: float,
    how: Dosing = Dosing(),
    guesses: Sequence[float | None] | None = None,
) -> list[tuple[SteeringPlan, Dose]]:
    """Several plans at one budget: each is searched for itself, and all of a round's verifications run side by side.
    guesses: a first strength for each, in place of `how.guess` (None: the closed form)."""
    check_budget(target)
    each = [how] * len(plans) if guesses is None else [replace(how, guess=guess) for guess in guesses]
    courses = [_Course(calibration, plan.scaled(how.sign), target, one) for plan, one in zip(plans, each, strict=True)]
    for _ in range(how.cap):
        waiting = [course for course in courses if not course.done]
        if not waiting:
            break
        for course, kl in zip(waiting, calibration.kls([course.next for course in waiting]), strict=True):
            course.add(kl)
    return [course.result() for course in courses]


class _Course:
    """One plan on its way to the budget. next: what to measure; add: what it cost."""

    def __init__(self, calibration: Calibration, side: SteeringPlan, target: float, how: Dosing):
        before = calibration.passes
        guess = calibration.guess(side, target, how.quantile) if how.guess is None else abs(how.guess)
        self._passes, self._each = calibration.passes - before, calibration.cost
        self._side, self._how, self._sampling = side, how, calibration.decoding.sampling
        self.done = not 0 < guess < math.inf
        self._search = _Search(target, how.tolerance, side.limit)
        self._guess = self._strength = 0.0 if self.done else min(guess, side.limit)

    @property
    def next(self) -> SteeringPlan:
        return self._side.scaled(self._strength)

    def add(self, kl: float) -> None:
        self._passes += self._each
        self._search.add(self._strength, kl)
        self.done = self._search.hit or self._search.stuck()
        if not self.done:
            self._strength = self._search.following()

    def result(self) -> tuple[SteeringPlan, Dose]:
        found, sign = self._search.result(), self._how.sign
        dose = Dose(
            asked=self._search.target,
            achieved=found.achieved,
            strength=sign * found.strength,
            reachable=found.reachable,
            first_guess=sign * self._guess,
            forwards=self._passes,
            history=tuple((sign * g, kl) for g, kl in found.history),
            sampling=self._sampling,
        )
        return self._side.scaled(found.strength), dose


def find_strength(
    measure: Callable[[float], float], target: float, guess: float, how: Dosing, limit: float = math.inf
) -> Found:
    """Root of `measure(strength) = target` for strengths above 0 and up to `limit`, by few measurements.

    measure: KL at a strength, 0 at 0; inf means not finite, which counts as above the target.
    """
    search = _Search(target, how.tolerance, limit)
    strength = min(guess, limit)
    for _ in range(how.cap):
        search.add(strength, measure(strength))
        if search.hit or search.stuck():
            break
        strength = search.following()
    return search.result()


class _Search:
    """The points measured so far, and where to measure next."""

    def __init__(self, target: float, tolerance: float, limit: float):
        self.target, self.tolerance, self.limit = target, tolerance, limit
        self.history: list[tuple[float, float]] = []
        self.hit = False

    def add(self, strength: float, kl: float) -> None:
        kl = math.inf if math.isnan(kl) else max(kl, 0.0)
        self.history.append((strength, kl))
        self.hit = abs(kl / self.target - 1) <= self.tolerance

    @property
    def low(self) -> tuple[float, float] | None:
        """The greatest strength below every strength that was too dear."""
        below = [point for point in self.history if point[1] <= self.target]
        if self.high is not None:
            below = [point for point in below if point[0] < self.high[0]]
        return max(below, default=None)

    @property
    def high(self) -> tuple[float, float] | None:
        return min((point for point in self.history if point[1] > self.target), default=None)

    def stuck(self) -> bool:
        """No use in going on: KL no longer grows with the strength, or jumps over the target, or the move is done."""
        low, high = self.low, self.high
        if low and high:
            return high[0] / low[0] < _CLOSED
        if low and low[0] >= self.limit:
            return True
        if high is None and len(self.history) >= 2:
            (a, x), (b, y) = sorted(self.history)[-2:]
            return y > 0 and x > 0 and b / a > 2 and abs(math.log(y / x)) < _FLAT * math.log(b / a)
        return len(self.history) > 1 and max(kl for _, kl in self.history) == 0

    def following(self) -> float:
        low, high = self.low, self.high
        if low and high:
            return self._inside(low, high)
        point = low or high or self.history[-1]
        step = _GROWTH
        if 0 < point[1] < math.inf:
            step = min(_GROWTH, math.exp(abs(math.log(self.target / point[1])) / self._slope()))
        # Aim a little beyond: a point on the other side makes a bracket, one just short of it does not.
        step = min(_GROWTH, step ** (1 + 0.1 * (len(self.history) - 1)))
        return min(point[0] * step, self.limit) if low else point[0] / step

    def _slope(self) -> float:
        """d log KL / d log strength through the last two points; 2, that of the parabola, until there are two."""
        usable = [point for point in self.history if 0 < point[1] < math.inf][-2:]
        if len(usable) < 2 or usable[0][0] == usable[1][0]:
            return 2.0
        (a, x), (b, y) = usable
        return min(max(math.log(y / x) / math.log(b / a), _SLOPES[0]), _SLOPES[1])

    def _inside(self, low: tuple[float, float], high: tuple[float, float]) -> float:
        """Secant in log-log, kept off the ends of the bracket; the geometric middle when it cannot be trusted."""
        one_sided = len(self.history) >= 3 and len({kl > self.target for _, kl in self.history[-3:]}) == 1
        if low[1] == 0 or high[1] == math.inf or one_sided:
            return math.sqrt(low[0] * high[0])
        share = math.log(self.target / low[1]) / math.log(high[1] / low[1])
        return low[0] * (high[0] / low[0]) ** min(max(share, 0.05), 0.95)

    def result(self) -> Found:
        """The nearest point within tolerance, or else the dearest one below the target (strength 0 at worst)."""
        near = [p for p in self.history if abs(p[1] / self.target - 1) <= self.tolerance]
        if near:
            strength, kl = min(near, key=lambda p: abs(p[1] - self.target))
        else:
            strength, kl = max(
                [(0.0, 0.0), *(p for p in self.history if p[1] <= self.target)], key=lambda p: (p[1], -p[0])
            )
        return Found(strength, kl, bool(near), tuple(self.history))
