"""Intervals over texts, the bootstrap behind them, and ranks."""

from trimtab.steering.statistics.bootstrap import BOOTSTRAP, FEW_RESAMPLED, METHODS, Bootstrap
from trimtab.steering.statistics.intervals import (
    COLUMN_DRAWS,
    Interval,
    cluster_numbers,
    column_intervals,
    mean_interval,
    paired_difference,
    ratio_interval,
    separate_difference,
    share_interval,
    share_of_total,
)
from trimtab.steering.statistics.ranks import auroc, auroc_interval, auroc_of_ranks, rank_p_value

__all__ = [
    "BOOTSTRAP",
    "Bootstrap",
    "COLUMN_DRAWS",
    "FEW_RESAMPLED",
    "Interval",
    "METHODS",
    "auroc",
    "auroc_interval",
    "auroc_of_ranks",
    "cluster_numbers",
    "column_intervals",
    "mean_interval",
    "paired_difference",
    "rank_p_value",
    "ratio_interval",
    "separate_difference",
    "share_interval",
    "share_of_total",
]
