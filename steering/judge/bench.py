"""Bench: the instruments of one judgement, set up once and shared, so that every competitor is measured alike."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from trimtab.steering.judge.effect import Behaved, Margins, margins
from trimtab.steering.judge.judge_input import JudgeInput, Texts
from trimtab.steering.judge.judged import Judged
from trimtab.steering.judge.search import Search
from trimtab.steering.judge.settings import JudgeSettings
from trimtab.steering.judge.verdict import Contender, Effect
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.price.dose import Dosing, dose_together
from trimtab.steering.price.kl import kl_at
from trimtab.steering.price.price import PricedOn, price_with
from trimtab.steering.price.result import Dose, Price
from trimtab.steering.price.rollouts import roll_out_together
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.sampling import Sampling
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything is made on first use. Pairs are cut to `completion_tokens` here, for every competitor alike."""

    input: JudgeInput
    _base_written: list[list[Tokens]] = field(default_factory=list, repr=False)

    @property
    def settings(self) -> JudgeSettings:
        return self.input.settings

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.input.model)

    @cached_property
    def calibration(self) -> Calibration:
        """Rollouts for prompts of the selection split: all doses are found here."""
        how = self.settings.dose
        return Calibration(
            self.scorer, _prompts(self.input.texts.select, how.prompts), _seeded(self.settings, how.decoding)
        )

    @cached_property
    def report(self) -> Margins:
        return Margins(self.scorer, report_pairs(self.input.texts, self.settings), self.settings.bootstrap)

    @cached_property
    def priced_on(self) -> PricedOn:
        """Held-out prompts, neutral texts and questions of the price."""
        return priced_on(self.input.texts, self.settings)

    @cached_property
    def base_scores(self) -> Float[np.ndarray, "n"]:
        """Behavioural scores of what the base model writes for the held-out prompts."""
        return self.scores(self._base_written[0] if self._base_written else self.written_for(self.priced_on.prompts))

    def cut(self, pairs: Sequence[AnswerPair], count: int) -> list[AnswerPair]:
        """The first `count` pairs, completions shortened."""
        return [pair.shortened(self.settings.completion_tokens) for pair in pairs[:count]]

    @cached_property
    def search(self) -> Search:
        """What chooses a candidate, for the plan and for every placebo."""
        how = self.settings.search
        pairs = self.cut(self.input.texts.select, max(how.pairs, how.screen_pairs))
        return Search(self.scorer, pairs, self.input.budget, how, self.settings.seed, self.input.responses)

    def dosed(self, plan: SteeringPlan, guess: float | None = None) -> tuple[SteeringPlan, Dose]:
        """The plan at the budget, and how the strength was found."""
        return self.dosed_together([plan], [guess], self.settings.dose.tolerance)[0]

    def dosed_together(
        self, plans: Sequence[SteeringPlan], guesses: Sequence[float | None], tolerance: float
    ) -> list[tuple[SteeringPlan, Dose]]:
        """Several plans at the budget, whose rollouts are written side by side."""
        dosing = Dosing(tolerance=tolerance, cap=self.settings.dose.cap)
        return dose_together(self.calibration, plans, self.input.budget, dosing, guesses)

    def written(self, plan: SteeringPlan) -> list[Tokens]:
        """What the model writes under the plan for the held-out prompts; the base model's answers, where they are
        scored, are written in the same passes."""
        also: list[SteeringPlan | None] = [] if self.input.behaviour is None or self._base_written else [None]
        texts = roll_out_together(self.scorer, [plan, *also], self.priced_on.prompts, self.priced_on.decoding)
        self._base_written.extend(texts[1:])
        return texts[0]

    def written_for(self, prompts: Sequence[Tokens]) -> list[Tokens]:
        """What the unsteered model writes for other versions of the held-out prompts."""
        return roll_out_together(self.scorer, [None], prompts, self.priced_on.decoding)[0]

    def price(self, plan: SteeringPlan, written: Sequence[Tokens]) -> Price:
        return price_with(self.scorer, plan, self.priced_on, written)

    def scores(self, written: Sequence[Tokens]) -> Float[np.ndarray, "n"]:
        """`[n]` behavioural scores of written texts. Only called when the input has a scorer of behaviour."""
        assert self.input.behaviour is not None
        answers = [text.ids[text.prompt_length :].tolist() for text in written]
        return np.array([self.input.behaviour(self.input.decode(ids), len(ids)) for ids in answers])

    def behaved(self, effect: Effect, written: Sequence[Tokens]) -> Effect:
        """The effect with its behavioural half, when there is a scorer of behaviour."""
        if self.input.behaviour is None:
            return effect
        return Behaved(self.base_scores, self.scores(written)).into(effect, self.settings.bootstrap)

    def measured(self, name: str, kind: str, plan: SteeringPlan, dose: Dose, margin: Float[np.ndarray, "n"]) -> Judged:
        """A competitor from its dosed plan and its margins."""
        spent = (dose.strength, dose.asked, dose.achieved, dose.reachable)
        where = ", ".join(str(step.site) for step in plan.interventions)
        return Judged(Contender(name, kind, *spent, self.effect(margin), site=where), plan, margin)

    def effect(self, margin: Float[np.ndarray, "n"]) -> Effect:
        """Effect of margins over the first pairs of the report split."""
        base = self.report.base[: len(margin)]
        return Effect(self.report.difference(margin, base), float(base.mean()), float(margin.mean()))

    def against(self, one: Judged, other: Judged) -> Contender:
        """`other` with the difference that the first one makes over it."""
        return replace(other.contender, difference=self.report.difference(one.margins, other.margins))

    def some_margins(self, plan: SteeringPlan) -> Float[np.ndarray, "n"]:
        """Margins over the first `placebo_pairs` report pairs."""
        return margins(self.scorer, self.report.pairs[: self.settings.placebo_pairs], plan)


def report_pairs(texts: Texts, settings: JudgeSettings) -> list[AnswerPair]:
    """The held-out pairs on which effects are measured, completions shortened."""
    return [pair.shortened(settings.completion_tokens) for pair in texts.report[: settings.report_pairs]]


def priced_on(texts: Texts, settings: JudgeSettings) -> PricedOn:
    """Held-out prompts, neutral texts and questions of a judgement's price."""
    how = settings.price
    return PricedOn(
        prompts=_prompts(texts.report, how.prompts),
        neutral=[_head(text, how.neutral_tokens) for text in texts.neutral[: how.neutral]],
        capability=texts.capability[: how.capability],
        decoding=_seeded(settings, how.decoding),
        bootstrap=settings.bootstrap,
    )


def _seeded(settings: JudgeSettings, decoding: Decoding) -> Decoding:
    return replace(decoding, seed=decoding.seed + settings.seed)


class Guesses:
    """First strengths on rollouts, from those at the same KL on given text: the median of what the one was of the other
    in plans dosed before."""

    def __init__(self) -> None:
        self._ratios: list[float] = []

    def of(self, forced: float) -> float | None:
        """None when the search found no strength: then the closed form is asked."""
        return forced * statistics.median(self._ratios or [1.0]) or None

    def add(self, forced: float, dose: Dose) -> None:
        if dose.reachable and forced:
            self._ratios.append(abs(dose.strength) / forced)


def prompted_kl(scorer: Scorer, written: Sequence[Tokens], plain: Sequence[Tokens], sampling: Sampling) -> float:
    """KL(with the request || without), mean nats per token, on what the model wrote with it: the price of a system
    prompt, comparable to that of a plan. plain: the prompts without the request."""
    without = [
        prompt.followed_by(text.ids[text.prompt_length :].tolist()) for text, prompt in zip(written, plain, strict=True)
    ]
    under, base = ({one.example: one.logits for one in scorer.forced(texts)} for texts in (written, without))
    return float(np.concatenate([kl_at(sampling, under[k], base[k]) for k in range(len(written))]).mean())


def _prompts(pairs: Sequence[AnswerPair], count: int) -> list[Tokens]:
    """The first `count` different prompts."""
    unique = {pair.positive.prompt.ids.tobytes(): pair.positive.prompt for pair in pairs}
    return list(unique.values())[:count]


def _head(text: Tokens, tokens: int) -> Tokens:
    end = min(len(text), tokens)
    return Tokens(text.ids[:end], min(text.prompt_length, end), text.roles[:end], text.special[:end])
