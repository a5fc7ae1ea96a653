"""Verdict: what a plan achieves beside its placebos at the same price, as named numbers that a report can draw."""

from dataclasses import asdict, dataclass
from typing import Any

from trimtab.steering.price.result import Dose, Price
from trimtab.steering.statistics import Interval

NULLS = ("random", "covariance")  # kinds of contenders that know nothing of the behaviour


@dataclass(frozen=True)
class Effect:
    """margin: change of (mean per-token log-probability of the positive completion minus that of the negative one),
    nats per token, over held-out pairs, on the same texts; prompts are resampled. behaviour: change of the behavioural
    score on generated text; behaviour_base/behaviour_steered: its levels."""

    margin: Interval
    margin_base: float
    margin_steered: float
    behaviour: Interval | None = None
    behaviour_base: float | None = None
    behaviour_steered: float | None = None


@dataclass(frozen=True)
class Contender:
    """One competitor at the same price. kind: plan, random, covariance, shuffled, flip, system_prompt,
    token_bias, method.
    kl_asked, kl: KL(steered || base), nats per token, on rollouts for the calibration prompts (the system prompt is
    not dosed: it costs what it costs). reachable: dosed within tolerance; a placebo that was not has not been beaten.
    difference: the plan's margin minus this one's, pair by pair on those that both were measured on, prompts resampled
    (None for the plan). site: where it acts, by the choice of the same search; sites separated by commas ("": not
    said)."""

    name: str
    kind: str
    strength: float | None
    kl_asked: float | None
    kl: float
    reachable: bool
    effect: Effect
    difference: Interval | None = None
    site: str = ""


@dataclass(frozen=True)
class SitePoint:
    """One candidate of the search, on the selection split, at the same teacher-forced KL. site: the candidate's name:
    its site when it acts at one. pairs: on how many selection
    pairs it was measured, the margin carried over to all screened ones by the linear response; 0: strength, KL and
    margin are a forecast by the linear response, as it was no finalist. forecast: the margin that the linear response
    had foretold at the budget (None: not said)."""

    site: str
    strength: float
    kl: float
    margin: float
    pairs: int = 0
    forecast: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """Effect at one price. contender: whose curve."""

    contender: str
    strength: float
    kl: float
    margin: Interval


@dataclass(frozen=True)
class AblationResult:
    """Directional ablation (operator names which) on prompts that ask for the behaviour: how much of the margin that
    asking gains is gone. removed: share removed, 1 = all; None when the gain's interval reaches 0, so that there is
    nothing to remove. random_removed: the same for random directions. kl: KL(base || ablated) on the plain pairs."""

    operator: str
    reference: str
    asked_gain: Interval
    gain_after: Interval
    removed: float | None
    random_removed: tuple[float, ...]
    kl: float


@dataclass(frozen=True)
class Generation:
    """One prompt answered by the base model and by the steered one (kl: mean nats per token spent)."""

    prompt: str
    base: str
    steered: str
    kl: float


@dataclass(frozen=True)
class AnsweringPoint:
    """One way of answering. tokens: length of its greedy answers. saved: tokens fewer than the base model's own,
    paired. kept: share still right. cut: share of the base model's answers that are still right when cut to as many
    tokens. kind: plan or system_prompt. factor: of the plan's dose (None: not a plan)."""

    name: str
    kind: str
    tokens: Interval
    saved: Interval
    kept: Interval
    cut: Interval
    factor: float | None = None


@dataclass(frozen=True)
class Answering:
    """Tokens against accuracy on questions with known answers. asked, able: how many were put to the base model and how
    many it answered rightly; the points are over these. limit: tokens of an answer at most. tokens: mean length of the
    base model's right answers."""

    asked: int
    able: int
    limit: int
    tokens: float
    points: tuple[AnsweringPoint, ...]


@dataclass(frozen=True)
class Verdict:
    """Everything a validation run found. site: name of the judged candidate: its site when it acts at one.
    beats_random: the plan's margin exceeds that of every random and covariance-matched placebo that could be dosed,
    each searched as the plan was, with intervals of the difference above 0; never true when too few could be dosed.
    sentence: the verdict in plain words. paired: whether both completions of every held-out pair answer one prompt
    (two lists of unrelated texts do not). warnings: what to know of how the plan was fitted."""

    plan: str
    site: str
    fitter: str
    beats_random: bool
    sentence: str
    dose: Dose
    price: Price
    contenders: tuple[Contender, ...]
    search: tuple[SitePoint, ...]
    curve: tuple[CurvePoint, ...]
    ablation: AblationResult | None
    generations: tuple[Generation, ...]
    splits: dict[str, int]
    behaviour_metric: str | None = None
    answering: Answering | None = None
    paired: bool = True
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, nested like the fields."""
        return asdict(self)
