"""Positive against negative rows of a capture."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trimtab.store.errors import NotFound


@dataclass(frozen=True)
class ContrastRows:
    """Positive and negative rows per site.

    rows: site -> (positive [n d], negative [m d]).
    paired: row i of both sides belongs to pair `pairs[i]` (then n = m, in the order of the pair numbers); otherwise
    both sides are in the order of the prompts.
    pairs: [n] int32 pair numbers; empty when not paired.
    """

    rows: Mapping[str, tuple[np.ndarray, np.ndarray]]
    paired: bool
    pairs: np.ndarray

    def __getitem__(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        return self.rows[site]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites' names."""
        return tuple(self.rows)


def refuse_one_sided(positive: int, negative: int, split: str | None) -> None:
    """Raises NotFound when there are no positive or no negative prompts."""
    if not positive or not negative:
        place = "" if split is None else f" in split {split!r}"
        raise NotFound(
            f"the capture has {positive} positive and {negative} negative prompts{place}: a contrast needs both; "
            "label the prompts."
        )


def pair_orders(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Orders that sort the pair numbers of both sides ([n], [m]), and whether every row then has one partner.

    Without that, both orders leave the rows as they are.
    """
    first, second = np.argsort(positive, kind="stable"), np.argsort(negative, kind="stable")
    ids = positive[first]
    matched = len(ids) == len(negative) and bool((ids == negative[second]).all())
    if matched and (ids >= 0).all() and (np.diff(ids) > 0).all():
        return first, second, True
    return np.arange(len(positive)), np.arange(len(negative)), False
