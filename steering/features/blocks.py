"""Rows of activations as blocks that can be read again and again: all that a fit needs to know of its data."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadRows

BLOCK = 8192  # rows at a time: the temporary arrays of an update stay small, the products stay efficient
RowBlocks = Iterable["Tensor | np.ndarray"]  # re-iterable: the same blocks [m d] in the same order every time


@dataclass(frozen=True)
class InMemory:
    """One tensor as blocks of `size` rows (views; nothing is copied)."""

    rows: Float[Tensor, "n d"]
    size: int = BLOCK

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.rows.split(self.size))


@dataclass(frozen=True, eq=False)
class Data:
    """Blocks, and what one pass over them told.

    scale: a power of two near the root mean square of all entries; blocks come divided by it, so that floors mean the
    same for every size of activation and scaling by a power of two changes no bit. total: sum of squares about zero,
    variance: about the mean row, both of the scaled rows. device: where blocks are worked on.
    """

    source: RowBlocks
    n: int
    d: int
    scale: float
    total: float
    variance: float
    device: torch.device

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """(which rows, scaled float32 block `[m d]`). Raises BadRows when the blocks are not those seen first."""
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


def survey(source: RowBlocks, device: "torch.device | str | None" = None) -> Data:
    """One pass: counts, scale, sums of squares. Raises BadRows for no rows, widths that differ, only zeros, or values
    that are not finite."""
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
    return Data(source, n, width, scale, squares / scale**2, max(about_mean, 0.0) / scale**2, work_device)


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
