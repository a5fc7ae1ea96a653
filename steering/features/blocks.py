"""Activations as blocks of rows that can be read several times, so that a fit never needs all rows in memory."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadRows

BLOCK = 8192  # rows per block: small enough for the temporary arrays of an update, large enough for fast products
RowBlocks = Iterable["Tensor | np.ndarray"]  # re-iterable: the same blocks [m d] in the same order every time


@dataclass(frozen=True)
class InMemory:
    """One tensor as blocks of `size` rows (views; nothing is copied)."""

    rows: Float[Tensor, "n d"]
    size: int = BLOCK

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.rows.split(self.size))


@dataclass(frozen=True, eq=False)
class SurveyedRows:
    """The rows of a fit as re-readable blocks, with statistics from one pass over them.

    n, d: number of rows and their width. scale: a power of two near the root mean square of all entries. Iterating
    gives rows divided by it: small constants in the fit (such as the floor of a denominator) then act alike for
    activations of any magnitude, and division by a power of two loses no precision. total: sum of squares of the
    scaled rows. variance: sum of squares of the scaled rows about their mean row. device: where blocks are moved to.
    """

    source: RowBlocks
    n: int
    d: int
    scale: float
    total: float
    variance: float
    device: torch.device

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Pairs (slice of row numbers, scaled float32 block `[m d]`). Raises BadRows when the number of rows differs
        from that of the first pass."""
        start = 0
        for block in self.source:
            rows = as_rows(block).to(self.device)
            yield slice(start, start + len(rows)), rows / self.scale
            start += len(rows)
        if start != self.n:
            raise BadRows(
                f"{self.n} rows were read on the first pass and {start} on a later one; give a source that can be "
                f"read again from its beginning, such as a list, not an iterator"
            )


def survey(source: RowBlocks, device: "torch.device | str | None" = None) -> SurveyedRows:
    """Read all rows once and compute their number, width, scale and sums of squares. device: by default that of the
    rows. Raises BadRows for fewer than two rows, widths that differ, only zeros, or values that are not finite."""
    n, mean, squares, width, work_device = 0, torch.zeros(()), 0.0, 0, torch.device(device or "cpu")
    for block in source:
        rows = as_rows(block)
        width = width or rows.shape[1]
        if rows.shape[1] != width:
            raise BadRows(f"blocks of width {width} and {rows.shape[1]}: all rows of a fit come from one site")
        if device is None:
            work_device = rows.device
        n += len(rows)
        mean = mean.to(rows.device) + rows.sum(0, dtype=torch.float64)
        squares += float(rows.square().sum(dtype=torch.float64))
    check_sums(n, width, squares)
    scale = 2.0 ** round(math.log2(math.sqrt(squares / (n * width))))
    about_mean = squares - float((mean / n).square().sum()) * n
    return SurveyedRows(source, n, width, scale, squares / scale**2, max(about_mean, 0.0) / scale**2, work_device)


def as_rows(block: "Tensor | np.ndarray") -> Float[Tensor, "m d"]:
    """One block as float32 `[m d]`; per-head rows are flattened."""
    rows = torch.from_numpy(block) if isinstance(block, np.ndarray) else block
    return rows.reshape(len(rows), -1).float()


def check_sums(n: int, width: int, squares: float) -> None:
    if n < 2 or width < 1:
        raise BadRows(f"{n} rows of width {width}: features are fitted on at least 2 rows")
    if not math.isfinite(squares):
        raise BadRows(f"rows of width {width} hold values that are not finite; capture in float32 or bfloat16")
    if squares == 0:
        raise BadRows(f"all {n} rows are zero; there is nothing to factorise")
