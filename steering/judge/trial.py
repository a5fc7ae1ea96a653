"""Trial: everything a judgement needs, and the settings that trade time for precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters.base import Fitter
from trimtab.steering.judge.answering import AnsweringSettings, KnownAnswer
from trimtab.steering.judge.behaviour import Behaviour
from trimtab.steering.judge.effect import AnswerPair
from trimtab.steering.judge.placebo import PlaceboCounts
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.contrast import Contrast
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import check_budget
from trimtab.steering.price.price import CapabilityItem
from trimtab.steering.running.writing import Decoding
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SearchSettings:
    """The search of the plan and of every placebo. screen_pairs: selection pairs on which the linear response of all
    candidates is taken, with `draws` labels per token. glances: candidates that are looked at in one pass over the
    first `pairs` of these, at their forecast strength. finalists: the best of those, which are brought to a
    teacher-forced KL within `tolerance` there, in at most `cap` passes each. Each glance or finalist more is one more
    for every placebo: the search is part of the null."""

    screen_pairs: int = 32
    draws: int = 1
    glances: int = 9
    finalists: int = 2
    pairs: int = 4
    tolerance: float = 0.3
    cap: int = 4


@dataclass(frozen=True)
class DoseSettings:
    """prompts, decoding: the rollouts on which KL is calibrated, for the plan and for every placebo alike.
    tolerance, placebo_tolerance: relative error of the KL that is accepted. cap: verifications per plan."""

    prompts: int = 8
    decoding: Decoding = Decoding(max_new_tokens=24)
    tolerance: float = 0.1
    placebo_tolerance: float = 0.2
    cap: int = 10


@dataclass(frozen=True)
class PriceSettings:
    """prompts, decoding: held-out rollouts for the price and the behavioural score. neutral, neutral_tokens: texts and
    their length. capability: A/B items."""

    prompts: int = 16
    decoding: Decoding = Decoding(max_new_tokens=32, seed=1000)
    neutral: int = 12
    neutral_tokens: int = 64
    capability: int = 32


@dataclass(frozen=True)
class AblationChoice:
    """pairs: asked and plain pairs (0 for no ablation). random: random directions beside the plan's."""

    pairs: int = 10
    random: int = 5


@dataclass(frozen=True)
class JudgeSettings:
    """report_pairs, placebo_pairs: held-out pairs for the plan, and the first of them for its placebos and curve.
    completion_tokens: only the first tokens of each completion are scored (None: all). curve: KL targets, nats.
    generations, generation_tokens: greedy answers shown side by side. seed: of placebos and rollouts. together:
    placebos that are dosed side by side."""

    search: SearchSettings = SearchSettings()
    dose: DoseSettings = DoseSettings()
    price: PriceSettings = PriceSettings()
    ablation: AblationChoice = AblationChoice()
    placebos: PlaceboCounts = PlaceboCounts()
    report_pairs: int = 40
    placebo_pairs: int = 20
    completion_tokens: int | None = 24
    curve: tuple[float, ...] = (0.03, 0.1, 0.3)
    generations: int = 6
    generation_tokens: int = 48
    answering: AnsweringSettings = AnsweringSettings()
    together: int = 6
    seed: int = 0
    bootstrap: Bootstrap = BOOTSTRAP


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a judgement. select: pairs on which site and strength are chosen. report: pairs never seen before.
    asked: the report pairs with a prompt that asks for the behaviour, in the same order (empty: no prompt baseline and
    no ablation). neutral: plain texts. capability: A/B items (may be empty). known: questions with known answers (may
    be empty: then nothing is said of tokens against accuracy)."""

    select: Sequence[AnswerPair]
    report: Sequence[AnswerPair]
    neutral: Sequence[Tokens]
    asked: Sequence[AnswerPair] = ()
    capability: Sequence[CapabilityItem] = ()
    known: Sequence[KnownAnswer] = ()

    def __post_init__(self) -> None:
        needed = {"selection pairs": self.select, "report pairs": self.report, "neutral texts": self.neutral}
        for name, found in needed.items():
            if len(found) < 2:
                raise SteeringError(f"a judgement with {len(found)} {name} has no interval; give at least 2")
        if self.asked and len(self.asked) != len(self.report):
            raise SteeringError(
                f"{len(self.asked)} pairs ask for the behaviour but {len(self.report)} report pairs do not; each "
                f"report pair needs its partner with the same completions"
            )


@dataclass(frozen=True, eq=False)
class Trial:
    """What is judged. plan: its name. candidates: one plan per site, keyed by the site's name; the best is chosen.
    fitter, contrast: what made them and the rows they were fitted on (for refits and covariances). budget: nats per
    generated token. behaviour, decode: scorer of written text, and token ids to text. rivals: plans of other methods,
    by name, judged at the same price. request: the words that ask for the behaviour."""

    plan: str
    model: PreTrainedModel
    candidates: Mapping[str, SteeringPlan]
    fitter: Fitter
    fitter_name: str
    contrast: Contrast
    texts: Texts
    budget: float
    decode: Callable[[Sequence[int]], str]
    behaviour: Behaviour | None = None
    rivals: Mapping[str, SteeringPlan] = field(default_factory=dict)
    request: str = "a system prompt that asks for the behaviour"
    settings: JudgeSettings = JudgeSettings()

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if not self.candidates:
            raise SteeringError(f"{self.plan}: nothing to judge; give at least one candidate plan")
