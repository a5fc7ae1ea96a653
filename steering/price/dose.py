"""dose: the strength at which a plan costs what was asked, within a tolerance, or the news that there is none.

First guess by the Fisher closed form, then verification where the budget binds, then a root search (`strength.py`).
The two signs of a plan cost differently, so each is searched apart; every verification is kept.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import CHAT, Message, PromptFormat, Tokens, tokenize
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import ROLLOUTS, Calibration, check_budget
from trimtab.steering.price.kl import STEERED_BASE, Measured, divergences, steered_from_base, summarise
from trimtab.steering.price.result import KL, Dose
from trimtab.steering.price.rollouts import roll_out
from trimtab.steering.price.strength import StrengthSearch
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding

PRICE_SEED = 1000  # of the answers that are priced; those that the strength is found on have 0


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


@dataclass(frozen=True, eq=False)
class Dosed:
    """plan: at the strength for the budget. dose: how the strength was found, and whether the budget was reached.
    price: KL(steered || base) of that plan, nats per generated token, with its interval over prompts, on answers that
    had no part in finding the strength."""

    plan: SteeringPlan
    dose: Dose
    price: KL


def dose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: SteeringPlan,
    prompts: Sequence[str | Sequence[Message]],
    kl: float,
    form: PromptFormat = CHAT,
) -> Dosed:
    """The plan scaled so that its own answers to `prompts` (texts or chats, 2 or more) cost `kl` nats per token.

    No strength beyond `plan.limit` is tried. When no strength comes within a tenth of the budget (KL saturates), this
    warns, `dose.reachable` is False, and the plan has the dearest strength tried below it. form: how prompts become
    text; by default through the tokenizer's chat template. Raises SteeringError for a budget that is not above 0.
    """
    check_budget(kl)
    if len(prompts) < 2:
        raise SteeringError(
            f"{len(prompts)} prompts give a price no interval; give 2 or more, and for a dose 8 or more"
        )
    scorer, tokens = Scorer(model), [tokenize(tokenizer, prompt, form=form) for prompt in prompts]
    scaled, reached = dose_on(Calibration(scorer, tokens), plan, kl)
    if not reached.reachable:
        warnings.warn(
            f"no strength costs {kl:g} nats per token on these prompts: the dearest below it costs "
            f"{reached.achieved:.3g} at strength {reached.strength:.3g}",
            stacklevel=2,
        )
    return Dosed(scaled, reached, _price(scorer, scaled, tokens))


def _price(scorer: Scorer, plan: SteeringPlan, prompts: Sequence[Tokens]) -> KL:
    """On fresh answers: those that chose the strength lie nearer to the budget than new ones."""
    decoding = Decoding(seed=PRICE_SEED)
    texts = roll_out(scorer.model, plan, prompts, decoding)
    spent = divergences(scorer, texts, steered_from_base(plan, decoding.sampling))
    return summarise(spent, prompts, Measured(STEERED_BASE, ROLLOUTS, sampling=decoding.sampling))


def dose_on(
    calibration: Calibration, plan: SteeringPlan, target: float, how: Dosing = Dosing()
) -> tuple[SteeringPlan, Dose]:
    """The plan scaled to the target on a calibration's prompts, and how its strength was found.

    A calibration that is shared between plans makes base texts and prompt caches once. No strength beyond `plan.limit`
    is tried. For a budget out of reach `Dose.reachable` is False and the plan has the dearest strength tried below it.
    """
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
