"""Scores of another evaluation harness: a task's scores without and with a plan, paired sample by sample."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trimtab.steering.errors import SteeringError
from trimtab.steering.statistics import Interval, mean_interval, paired_difference, ratio_interval, share_interval

SampleKey = tuple[str, int]  # a sample's id, and its epoch


@dataclass(frozen=True)
class HarnessScore:
    """One scorer. base, steered: its mean over the samples that both models answered. difference: steered minus base,
    sample by sample; samples are resampled whole, with all of their epochs."""

    name: str
    base: Interval
    steered: Interval
    difference: Interval


@dataclass(frozen=True)
class HarnessResult:
    """A task that was run without and with a plan. harness: its name and version. task: as the harness names it.
    samples: answers scored under both models. left_out: those that have no score under one of them. decoding: how
    answers were drawn, in words. nats: KL(steered || base) per token of the steered answers (None: not measured).
    logs: names of the harness's own log files, unsteered first."""

    harness: str
    task: str
    samples: int
    left_out: int
    decoding: str
    scores: tuple[HarnessScore, ...]
    nats: Interval | None = None
    logs: tuple[str, ...] = ()


def harness_score(name: str, base: Mapping[SampleKey, float], steered: Mapping[SampleKey, float]) -> HarnessScore:
    """Pair the scores of the samples that are in both. Raises SteeringError when fewer than two samples are."""
    keys = sorted(base.keys() & steered.keys())
    clusters = [sample for sample, _ in keys]
    if len(set(clusters)) < 2:
        raise SteeringError(
            f"{name}: {len(set(clusters))} samples were scored under both models, and an interval needs 2; raise the "
            f"limit of samples, or look into the harness's logs for those that failed"
        )
    before, after = (np.array([scores[key] for key in keys], np.float64) for scores in (base, steered))
    return HarnessScore(name, _level(before, clusters), _level(after, clusters), _difference(before, after, clusters))


def nats_per_token(sums: Mapping[SampleKey, tuple[float, int]]) -> Interval | None:
    """From each answer's nats and tokens; None where fewer than two samples have any."""
    keys = sorted(key for key, (_, tokens) in sums.items() if tokens)
    clusters = [sample for sample, _ in keys]
    if len(set(clusters)) < 2:
        return None
    nats, tokens = (np.array([sums[key][k] for key in keys], np.float64) for k in (0, 1))
    return ratio_interval(nats, tokens, clusters=clusters)


def _level(values: np.ndarray, clusters: list[str]) -> Interval:
    """The mean; exact where scores are right or wrong and each sample was answered once."""
    if len(set(clusters)) == len(values) and np.isin(values, (0.0, 1.0)).all():
        return share_interval(values)
    return mean_interval(values, clusters=clusters)


def _difference(before: np.ndarray, after: np.ndarray, clusters: list[str]) -> Interval:
    """The paired difference. Where it is the same for every sample (mostly: nothing changed), resampling gives a single
    point; the interval is then as wide as the largest share of samples that may well differ all the same, times the
    range of the scores."""
    difference = paired_difference(after, before, clusters=clusters)
    if difference.low < difference.high:
        return difference
    unseen = share_interval(np.zeros(len(set(clusters)))).high
    both = np.concatenate([before, after])
    reach = unseen * max(float(np.ptp(both)), 1.0 if np.isin(both, (0.0, 1.0)).all() else 0.0)
    mean = difference.mean
    return Interval(mean, mean - reach, mean + reach, difference.n, difference.level, difference.clusters)
