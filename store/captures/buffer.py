"""The rows of one region in memory, checked while they come in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trimtab.store.captures.blocks import BLOCK, errors
from trimtab.store.captures.dtypes import LARGEST, all_finite, finite, from_bfloat16, to_stored
from trimtab.store.captures.schema import ArraySpec, Region
from trimtab.store.errors import Invalid, Mismatch, NotFound


class RegionBuffer:
    """The rows of one region, one array [rows of the region, *stored shape] per site, filled in any order.

    arrays: site -> stored values.  errors: int8 site -> float64 [rows, 2], squared error and squared values of a row.
    """

    def __init__(self, region: Region, specs: Sequence[ArraySpec]) -> None:
        self.region = region
        self.specs = {spec.name: spec for spec in specs}
        self.arrays = {s.name: np.empty((region.n_rows, *s.stored_shape), s.stored_dtype) for s in specs}
        self.errors = {s.name: np.zeros((region.n_rows, 2)) for s in specs if s.dtype == "int8"}
        self._written = {spec.name: np.zeros(region.n_rows, dtype=np.uint8) for spec in specs}

    def write(self, site: str, rows: slice | int | np.ndarray, array: np.ndarray) -> None:
        """Put `array` [n, *shape] at `rows`: a slice of the capture's rows, the number of the first, or n row numbers.

        bfloat16 sites take their bits as uint16, or any float (rounded to nearest even).
        Raises NotFound (site), Mismatch (shape, rows outside the region or twice), Invalid (infinite, NaN, or too large
        for the stored dtype).
        """
        spec = self._spec(site)
        array = np.asarray(array)
        if isinstance(rows, (int, np.integer)):
            rows = slice(int(rows), int(rows) + len(array))
        inside = self._inside(spec, rows, array)
        values = to_stored(array, spec)
        _refuse_non_finite(values, array, spec, rows)
        if spec.dtype == "int8":
            self.errors[site][inside] = errors(array, values)
        if self._written[site][inside].any():
            raise Mismatch(f"{site}: {_range(rows)} were written before; every row is written exactly once.")
        self.arrays[site][inside] = values
        self._written[site][inside] = 1

    def _spec(self, site: str) -> ArraySpec:
        if site not in self.specs:
            raise NotFound(f"site {site!r} is not in this capture; it holds {', '.join(self.specs)}.")
        return self.specs[site]

    def _inside(self, spec: ArraySpec, rows: slice | np.ndarray, array: np.ndarray) -> slice | np.ndarray:
        """The same rows, counted from the first row of the region."""
        region = self.region
        n = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        if array.shape != (n, *spec.shape):
            raise Mismatch(f"{spec.name}: {_range(rows)} need shape {(n, *spec.shape)}, got {array.shape}.")
        start, stop = (rows.start, rows.stop) if isinstance(rows, slice) else _bounds(rows, region)
        if start < region.row_start or stop > region.row_stop:
            raise Mismatch(
                f"{spec.name}: {_range(rows)} leave region {region.number}, "
                f"which has rows {region.row_start}..{region.row_stop}."
            )
        if isinstance(rows, slice):
            return slice(start - region.row_start, stop - region.row_start)
        return rows - region.row_start

    def check_full(self) -> None:
        """Raises Mismatch when a row of any site is missing."""
        for site, written in self._written.items():
            missing = np.flatnonzero(written == 0)
            if len(missing):
                first = int(missing[0]) + self.region.row_start
                raise Mismatch(
                    f"{site}: {len(missing)} of {len(written)} rows of region {self.region.number} were not "
                    f"written (first: row {first}); nothing of the region is kept."
                )


def _bounds(rows: np.ndarray, region: Region) -> tuple[int, int]:
    return (int(rows.min()), int(rows.max()) + 1) if len(rows) else (region.row_start, region.row_start)


def _range(rows: slice | np.ndarray) -> str:
    """Rows, for messages."""
    if isinstance(rows, slice):
        return f"rows {rows.start}..{rows.stop}"
    return f"{len(rows)} rows from {rows.min()} to {rows.max()}" if len(rows) else "0 rows"


def _refuse_non_finite(stored: np.ndarray, array: np.ndarray, spec: ArraySpec, rows: slice | np.ndarray) -> None:
    """Raises Invalid when a value of `array` became, or was, infinite or NaN as it is stored."""
    if all_finite(stored, spec):
        return
    ok = finite(stored, spec)
    first = np.argwhere(~ok)[0]  # (row, ..., column or block of columns)
    value = array[tuple(first)] if spec.dtype != "int8" else _worst(array[tuple(first[:-1])], int(first[-1]))
    if array.dtype == np.uint16:
        value = from_bfloat16(value.reshape(1))[0]
    wider = {"float16": "bfloat16 or float32"}.get(spec.dtype, "float32")
    cure = f"collect with dtype {wider}" if np.isfinite(value) else "run the model in float32, or leave the prompt out"
    at = tuple(int(i) for i in first[1:])
    row = rows.start + int(first[0]) if isinstance(rows, slice) else int(rows[first[0]])
    raise Invalid(
        f"{spec.name}: row {row} holds {float(value):g} at {at}, and {spec.dtype} holds "
        f"finite values up to {LARGEST[spec.dtype]:g} only ({(~ok).sum()} such values in this write). "
        f"Nothing of this region is kept; {cure}."
    )


def _worst(row: np.ndarray, block: int) -> "np.floating[Any]":
    """The value that a block of int8 cannot hold: one that is not finite, otherwise the largest."""
    values = row[block * BLOCK : (block + 1) * BLOCK]
    broken = values[~np.isfinite(values)]
    worst: np.floating[Any] = broken[0] if len(broken) else values[np.abs(values).argmax()]
    return worst
