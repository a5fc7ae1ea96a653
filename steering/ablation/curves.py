"""Cumulative curves: the metric when the first k units of a ranking are ablated, and when all other units are, each
beside random sets from the same blocks. Also single units, with p-values corrected for the number of units."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from trimtab.steering.ablation.multiple import benjamini_hochberg, holm, sign_flip_p
from trimtab.steering.ablation.runs import Ablator, Set
from trimtab.steering.ablation.sets import matched_sets
from trimtab.steering.causal.question import Question, prompts_of
from trimtab.steering.causal.units import Unit
from trimtab.steering.errors import BadQuestion, BadRanking
from trimtab.steering.statistics import column_intervals

BAND = (0.05, 0.95)


@dataclass(frozen=True, eq=False)
class Curve:
    """One direction. name: "without" (the first k units taken out) or "alone" (everything else taken out). sizes: k.
    metric: `[sizes questions]`, nats. control: `[sizes sets]` mean metric of each random set. prompts: `[questions]`
    labels, equal for questions on one prompt."""

    name: str
    sizes: tuple[int, ...]
    metric: np.ndarray
    control: np.ndarray
    prompts: Sequence[bytes] | None = None

    @property
    def mean(self) -> np.ndarray:
        return self.metric.mean(1)

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high `[sizes]`: 95% bootstrap over questions, those on one prompt together."""
        return column_intervals(self.metric.T, clusters=self.prompts)

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high `[sizes]`: where 90% of the random sets lie (nan without any)."""
        if not self.control.shape[1]:
            return np.full(len(self.sizes), np.nan), np.full(len(self.sizes), np.nan)
        low, high = np.quantile(self.control, BAND, axis=1)
        return low, high


def curves(
    ablator: Ablator,
    questions: Sequence[Question],
    order: Sequence[Unit],
    universe: Sequence[Unit],
    sizes: Sequence[int],
    random: int = 19,
) -> tuple[Curve, Curve]:
    """Both curves for the first k units of `order`, k in `sizes`. k = 0 is the whole model ("without"), or the model
    with the whole universe ablated ("alone").

    Raises BadRanking for sizes larger than the order, or when too few other units exist for random sets that differ.
    """
    if not sizes or min(sizes) < 0 or max(sizes) > len(order):
        raise BadRanking(f"sizes {list(sizes)} are not among 0 to {len(order)}, the number of ranked units")
    groups = [[list(order[:k]), *(matched_sets(universe, order[:k], random, k) if k else [])] for k in sizes]
    flat = [one for group in groups for one in group]
    outside = [[unit for unit in universe if unit.name not in {u.name for u in one}] for one in flat]
    metrics = ablator.metrics(questions, [*flat, *outside])
    directions = (("without", metrics[: len(flat)]), ("alone", metrics[len(flat) :]))
    without, alone = (_curve(name, sizes, groups, rows, random) for name, rows in directions)
    prompts = prompts_of(questions)
    return replace(without, prompts=prompts), replace(alone, prompts=prompts)


def _curve(name: str, sizes: Sequence[int], groups: Sequence[Sequence[Set]], metrics: np.ndarray, random: int) -> Curve:
    own, control, at = [], [], 0
    for k, group in zip(sizes, groups, strict=True):
        rows = metrics[at : at + len(group)]
        own.append(rows[0])
        control.append(rows[1:].mean(1) if k else np.full(random, rows[0].mean()))
        at += len(group)
    return Curve(name, tuple(sizes), np.stack(own), np.stack(control).reshape(len(sizes), -1))


@dataclass(frozen=True, eq=False)
class OneByOne:
    """Each unit ablated alone. drop: `[questions n]` nats lost. p: two-sided, from sign-flip tests. holm, bh: p
    corrected for n units (Holm bounds the chance of any false finding, Benjamini-Hochberg the share of false
    findings)."""

    units: tuple[str, ...]
    drop: np.ndarray
    p: np.ndarray
    holm: np.ndarray
    bh: np.ndarray


def one_by_one(ablator: Ablator, questions: Sequence[Question], units: Sequence[Unit]) -> OneByOne:
    """Ablate every unit alone."""
    metrics = ablator.metrics(questions, [[], *[[unit] for unit in units]])
    drop = (metrics[0] - metrics[1:]).T
    p = sign_flip_p(drop, prompts_of(questions))
    return OneByOne(tuple(unit.name for unit in units), drop, p, holm(p), benjamini_hochberg(p))


def specificity(
    ablators: Sequence[Ablator], tasks: Sequence[Sequence[Question]], sets: Sequence[Sequence[Unit]]
) -> Float[np.ndarray, "sets tasks"]:
    """`[sets tasks]` share of each task's metric that is lost when each set is ablated. One ablator per task, since
    mean and resample refer to that task's questions. A set that costs other tasks as much as its own is not specific to
    it. Raises BadQuestion for a task whose metric on the whole model is not above 0: no share of it exists."""
    columns = []
    for ablator, questions in zip(ablators, tasks, strict=True):
        means = ablator.metrics(questions, [[], *sets]).mean(1)
        if means[0] <= 0:
            raise BadQuestion(f"a task has a mean metric of {means[0]:.3g}: the model does not do it; leave it out")
        columns.append((means[0] - means[1:]) / means[0])
    return np.stack(columns, 1)
