"""dose: the strength at which a plan costs what was asked, within a tolerance, or the news that there is none.

First guess by the Fisher closed form, then verification where the budget binds, then a root search (`strength.py`).
The two signs of a plan cost differently, so each is searched apart; every verification is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import Calibration, check_budget
from trimtab.steering.price.result import Dose
from trimtab.steering.price.strength import StrengthSearch
from trimtab.steering.running.scorer import Scorer


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


def dose(
    model: PreTrainedModel,
    plan: SteeringPlan,
    prompts: Sequence[Tokens],
    target: float,
    tolerance: float = 0.1,
    sign: int = 1,
) -> tuple[SteeringPlan, Dose]:
    """The plan scaled so that its rollouts on `prompts` cost `target` nats per token, and how the strength was found.

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
    """One plan on its way to the budget. next: the plan to measure; add: what it cost there."""

    def __init__(self, calibration: Calibration, side: SteeringPlan, target: float, how: Dosing):
        before = calibration.passes
        guess = calibration.guess(side, target, how.quantile) if how.guess is None else abs(how.guess)
        self._passes, self._each = calibration.passes - before, calibration.cost
        self._side, self._how, self._sampling = side, how, calibration.decoding.sampling
        self.done = not 0 < guess < math.inf
        self._search = StrengthSearch(target, how.tolerance, side.limit)
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
        root, sign = self._search.result(), self._how.sign
        dose = Dose(
            asked=self._search.target,
            achieved=root.achieved,
            strength=sign * root.strength,
            reachable=root.reachable,
            first_guess=sign * self._guess,
            forwards=self._passes,
            history=tuple((sign * g, kl) for g, kl in root.history),
            sampling=self._sampling,
        )
        return self._side.scaled(root.strength), dose
