"""Settings of a judgement: what trades time for precision."""

from dataclasses import dataclass

from trimtab.steering.judge.answering import AnsweringSettings
from trimtab.steering.judge.placebo import PlaceboCounts
from trimtab.steering.running.writing import Decoding
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap


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
    """pairs: held-out pairs, with the request and without (0 for no ablation). random: random directions beside the
    plan's."""

    pairs: int = 10
    random: int = 5


@dataclass(frozen=True)
class JudgeSettings:
    """report_pairs, placebo_pairs: held-out pairs for the plan, and the first of them for its placebos and curve.
    completion_tokens: only the first tokens of each completion are scored (None: all). curve: KL targets, nats.
    generations, generation_tokens: greedy answers shown side by side. seed: of placebos and rollouts. together:
    placebos that are dosed first; the others' first strengths are guessed from theirs."""

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
