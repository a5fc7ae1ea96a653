"""The verdict on a set of units: necessary, sufficient, redundant, interfering or idle.

    m_M    metric of the whole model        m_0    with the whole universe of units ablated
    necessity     (m_M - m_{M without S}) / (m_M - m_0)     share of the metric that is lost when S is ablated
    sufficiency   (m_S - m_0) / (m_M - m_0)                 share that remains when everything but S is ablated

Shares are ratios of means over questions, never means of ratios. Both are measured because they are not symmetric: of
two heads that can each do the task alone, neither is necessary. Random sets with as many units in the same blocks are
measured in the same way (Wang et al. 2211.00593; Miller et al. 2407.08734: a circuit's faithfulness depends on the
ablation operator).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from trimtab.steering.ablation.multiple import holm, sign_flip_p
from trimtab.steering.ablation.runs import Ablator
from trimtab.steering.ablation.sets import matched_sets
from trimtab.steering.causal.question import Question, metric_name, prompts_of
from trimtab.steering.causal.units import Unit
from trimtab.steering.errors import BadQuestion
from trimtab.steering.statistics import (
    BOOTSTRAP,
    Bootstrap,
    Interval,
    mean_interval,
    paired_difference,
    rank_p_value,
    share_of_total,
)

WORDS = ("necessary and sufficient", "necessary", "redundant", "interfering", "idle", "unclear")


@dataclass(frozen=True)
class Standard:
    """Thresholds of the verdict. random: number of matched random sets. alpha: largest p-value of the set's rank among
    them. share: smallest loss, as a share of the model's metric, of a necessary set. enough: smallest share that a
    sufficient set keeps alone. little: a set is idle when both shares, with their whole intervals, are below this."""

    random: int = 99
    alpha: float = 0.05
    share: float = 0.2
    enough: float = 0.5
    little: float = 0.1
    seed: int = 0
    bootstrap: Bootstrap = BOOTSTRAP


@dataclass(frozen=True)
class SetEffect:
    """One direction, necessity or sufficiency. share: as defined at the head of this file. effect: nats lost without
    the set, or kept with it alone. over_random: effect minus the mean effect of the random sets, paired by question.
    random: each random set's share. p: from the effect's rank among the random sets."""

    share: Interval
    effect: Interval
    over_random: Interval | None
    random: tuple[float, ...]
    p: float | None

    def stands_out(self, alpha: float) -> bool:
        """Whether the effect exceeds that of matched random sets: by its rank, and by the interval of the
        difference."""
        return self.p is not None and self.p <= alpha and self.over_random is not None and self.over_random.low > 0


@dataclass(frozen=True)
class Partner:
    """A unit that can replace the set. unit: its name. share: what is lost without both, minus what is lost without
    each, as a share of the model's metric. p: of that excess, corrected for all units tried (Holm)."""

    unit: str
    share: float
    p: float


@dataclass(frozen=True)
class SetVerdict:
    """units: names of the set's units. universe: number of units in all. operator: its name. metric: its description.
    whole, empty: metric of the model, and with the universe ablated. word: one of WORDS. partners: units that can
    replace the set. sentence: the verdict in words, each clause based on an interval."""

    units: tuple[str, ...]
    universe: int
    operator: str
    metric: str
    whole: Interval
    empty: Interval
    necessity: SetEffect
    sufficiency: SetEffect
    word: str
    partners: tuple["Partner", ...]
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def judge_set(
    ablator: Ablator,
    questions: Sequence[Question],
    units: Sequence[Unit],
    universe: Sequence[Unit],
    standard: Standard = Standard(),
    company: Sequence[Unit] = (),
) -> SetVerdict:
    """Measure necessity and sufficiency of one set, on questions that were not used to choose it. company: units that
    may be able to replace the set; each is ablated alone and together with it (two more passes per unit).

    Raises BadQuestion when ablating the whole universe does not lower the metric (no share exists then), BadRanking
    when the universe is too small for random sets.
    """
    random = matched_sets(universe, units, standard.random, standard.seed) if standard.random else []
    whole, empty, without, alone = _measured(ablator, questions, [units, *random], universe)
    total = float((whole - empty).mean())
    if total <= 0:
        raise BadQuestion(
            f"operator '{ablator.operator}' on all {len(universe)} units moves the metric from {whole.mean():.3g} to "
            f"{empty.mean():.3g}: nothing is lost that a set could be necessary for; use another operator or task"
        )
    groups = prompts_of(questions)
    sides = [_side(effects, whole - empty, standard, groups) for effects in (whole - without, alone - empty)]
    partners = partners_of(ablator, questions, units, company, total, standard) if len(company) else ()
    verdict = SetVerdict(
        units=tuple(unit.name for unit in units),
        universe=len(universe),
        operator=str(ablator.operator),
        metric=metric_name(questions),
        whole=mean_interval(whole, standard.bootstrap, groups),
        empty=mean_interval(empty, standard.bootstrap, groups),
        necessity=sides[0],
        sufficiency=sides[1],
        word=word_for(sides[0], sides[1], standard, bool(partners)),
        partners=partners,
        sentence="",
    )
    return replace(verdict, sentence=sentence(verdict))


def _measured(
    ablator: Ablator, questions: Sequence[Question], sets: Sequence[Sequence[Unit]], universe: Sequence[Unit]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Metric of the whole model and without the universe, `[questions]`; without each set, and with it alone, `[sets
    questions]`."""
    names_by_set = [_names(one) for one in sets]
    outside = [[unit for unit in universe if unit.name not in names] for names in names_by_set]
    metrics = ablator.metrics(questions, [[], list(universe), *sets, *outside])
    return metrics[0], metrics[1], metrics[2 : 2 + len(sets)], metrics[2 + len(sets) :]


def partners_of(
    ablator: Ablator,
    questions: Sequence[Question],
    units: Sequence[Unit],
    company: Sequence[Unit],
    total: float,
    standard: Standard,
) -> tuple[Partner, ...]:
    """Units whose loss together with the set exceeds the sum of both single losses, by the standard for a necessary
    set: such a unit does the set's work when the set is ablated, and the reverse. Largest first. total: nats lost when
    all units are ablated."""
    others = [unit for unit in company if unit.name not in _names(units)]
    sets = [[], list(units), *[[unit] for unit in others], *[[*units, unit] for unit in others]]
    metrics = ablator.metrics(questions, sets)
    lost = metrics[0] - metrics[1:]
    single = np.maximum(lost, 0)  # what is gained without an interfering unit is no work of another
    beyond = (lost[1 + len(others) :] - single[0] - single[1 : 1 + len(others)]).T
    p, shares = holm(sign_flip_p(beyond, prompts_of(questions))), beyond.mean(0) / total
    partners = [k for k in np.argsort(-shares) if shares[k] >= standard.share and p[k] <= standard.alpha]
    return tuple(Partner(others[k].name, float(shares[k]), float(p[k])) for k in partners)


def word_for(
    necessity: SetEffect, sufficiency: SetEffect, standard: Standard = Standard(), replaceable: bool = False
) -> str:
    """One of WORDS. Necessary or sufficient: the share reaches the standard, its whole interval is above 0, and the
    effect exceeds that of random sets. Redundant: not necessary, but sufficient, or necessary once another unit is
    ablated (`replaceable`). Interfering: the metric rises without the set. Idle: both shares are small, including their
    intervals."""
    needed = necessity.share.low > 0 and necessity.share.mean >= standard.share and necessity.stands_out(standard.alpha)
    enough = sufficiency.share.low > 0 and sufficiency.share.mean >= standard.enough
    enough = enough and sufficiency.stands_out(standard.alpha)
    if needed:
        return "necessary and sufficient" if enough else "necessary"
    if enough or replaceable:
        return "redundant"
    if necessity.effect.high < 0 and necessity.share.mean <= -standard.little:
        return "interfering"
    shares = (necessity.share, sufficiency.share)
    return "idle" if all(max(-s.low, s.high) <= standard.little for s in shares) else "unclear"


def sentence(verdict: SetVerdict) -> str:
    """The verdict as a sentence, with the comparison to random sets."""
    n = len(verdict.units)
    name = verdict.units[0] if n == 1 else f"the set of {n}"
    parts = [
        f"Under operator '{verdict.operator}', {name} is {_called(verdict.word)}.",
        f"Without it {_share(verdict.necessity)} of the metric is lost ({_beside(verdict.necessity)});",
        f"with nothing else of {verdict.universe} units {_share(verdict.sufficiency)} is kept "
        f"({_beside(verdict.sufficiency)}).",
    ]
    if verdict.partners:
        with_it = ", ".join(f"{one.unit} ({one.share:+.0%}, p = {one.p:.2g})" for one in verdict.partners[:3])
        parts.append(f"Taken out together, more is lost than by each added: {with_it}.")
    return " ".join(parts)


def _called(word: str) -> str:
    return {
        "redundant": "redundant: it can do the work, and is not needed, since something else can do it too",
        "interfering": "interfering: the answer is better without it",
        "unclear": "unclear: neither an effect that stands out, nor small enough to call it idle",
    }.get(word, word)


def _side(effects: np.ndarray, total: np.ndarray, standard: Standard, groups: Sequence[bytes]) -> SetEffect:
    """effects: `[1 + random, questions]`, the set's own first. groups: the questions' prompts."""
    own, random, how = effects[0], effects[1:], standard.bootstrap
    return SetEffect(
        share=share_of_total(own, total, how, groups),
        effect=mean_interval(own, how, groups),
        over_random=paired_difference(own, random.mean(0), how, groups) if len(random) else None,
        random=tuple(float(x) for x in random.mean(1) / total.mean()),
        p=rank_p_value(float(own.mean()), random.mean(1).tolist()) if len(random) else None,
    )


def _names(units: Sequence[Unit]) -> set[str]:
    return {unit.name for unit in units}


def _share(side: SetEffect) -> str:
    return f"{_percent(side.share.mean)} [{_percent(side.share.low)}, {_percent(side.share.high)}]"


def _beside(side: SetEffect) -> str:
    if not side.random:
        return "no random sets were tried, so nothing says that these units matter"
    low, high = np.quantile(side.random, [0.05, 0.95])
    return (
        f"{len(side.random)} random sets of the same blocks: {_percent(low)} to {_percent(high)}, rank p = {side.p:.2g}"
    )


def _percent(share: float) -> str:
    """Without a sign on what rounds to 0."""
    return f"{round(share, 2) + 0.0:.0%}"
