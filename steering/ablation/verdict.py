"""The verdict on a set of units: is it necessary, sufficient, redundant, interfering or idle, and beside what.

    m_M    metric of the whole model        m_0    with the whole universe of units taken out
    necessity     (m_M - m_{M without S}) / (m_M - m_0)     what is lost without the set, as a share
    sufficiency   (m_S - m_0) / (m_M - m_0)                 what is left with nothing but the set

Shares are ratios of means over questions, never means of ratios. Both directions are measured because they are not
symmetric: of two heads that each do the task, neither is necessary. Random sets of as many units of the same blocks
stand beside them (Wang et al. 2211.00593; Miller et al. 2407.08734: the task cannot be told apart from the operator).
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
    """What counts. random: matched sets. alpha: of their rank. share: of the model's whole metric, from which a loss
    makes a set necessary. enough: share that the set alone must keep to be sufficient. little: share below which, with
    the whole interval, a set is idle."""

    random: int = 99
    alpha: float = 0.05
    share: float = 0.2
    enough: float = 0.5
    little: float = 0.1
    seed: int = 0
    bootstrap: Bootstrap = BOOTSTRAP


@dataclass(frozen=True)
class SetEffect:
    """One direction, necessity or sufficiency. share: see the head of this file. effect: nats, lost without the set, or
    kept with it alone. over_random: effect minus the mean effect of the random sets, paired by question. random: each
    random set's share. p: rank of the effect among them."""

    share: Interval
    effect: Interval
    over_random: Interval | None
    random: tuple[float, ...]
    p: float | None

    def stands_out(self, alpha: float) -> bool:
        """Larger than matched random sets: by rank, and by the interval of the difference."""
        return self.p is not None and self.p <= alpha and self.over_random is not None and self.over_random.low > 0


@dataclass(frozen=True)
class Partner:
    """unit: its name. share: what is lost without both, beyond what is lost without each, of the model's metric. p: of
    that, corrected for all units tried (Holm)."""

    unit: str
    share: float
    p: float


@dataclass(frozen=True)
class SetVerdict:
    """units: names. operator. metric: what it is. whole, empty: metric of the model, and without the universe. word:
    one of WORDS. partners: units that stand in for the set. sentence: plain words, every clause read off an
    interval."""

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
    chosen: Sequence[Unit],
    universe: Sequence[Unit],
    standard: Standard = Standard(),
    company: Sequence[Unit] = (),
) -> SetVerdict:
    """Measure both directions of one set on questions that it was not chosen on. company: units that may stand in for
    the set; each is taken out with it as well, two more passes a unit.

    Raises BadQuestion when taking the whole universe out costs nothing (no share exists then), BadRanking when the
    universe is too small for random sets.
    """
    random = matched_sets(universe, chosen, standard.random, standard.seed) if standard.random else []
    whole, empty, without, alone = _measured(ablator, questions, [chosen, *random], universe)
    total = float((whole - empty).mean())
    if total <= 0:
        raise BadQuestion(
            f"operator '{ablator.operator}' on all {len(universe)} units moves the metric from {whole.mean():.3g} to "
            f"{empty.mean():.3g}: nothing is lost that a set could be necessary for; use another operator or task"
        )
    groups = prompts_of(questions)
    sides = [_side(effects, whole - empty, standard, groups) for effects in (whole - without, alone - empty)]
    partners = partners_of(ablator, questions, chosen, company, total, standard) if len(company) else ()
    verdict = SetVerdict(
        units=tuple(unit.name for unit in chosen),
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
    chosen: Sequence[Unit],
    company: Sequence[Unit],
    total: float,
    standard: Standard,
) -> tuple[Partner, ...]:
    """Units whose loss together with the set is larger than both losses added, by what counts as necessary: what one of
    them does, the other does when it is gone. Best first. total: what all units together carry, nats."""
    others = [unit for unit in company if unit.name not in _names(chosen)]
    sets = [[], list(chosen), *[[unit] for unit in others], *[[*chosen, unit] for unit in others]]
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
    """One of WORDS. Necessary or sufficient: the share is as large as counts, its whole interval above 0, and the
    effect stands out among random sets. Redundant: not necessary, yet sufficient, or needed once another unit is gone
    (`replaceable`). Interfering: something is gained without it. Idle: what is lost and what is kept are both small,
    interval and all."""
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
    """What was found, and beside what."""
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
