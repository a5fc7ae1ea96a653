"""A selection of a capture's rows, by prompt, label, split, role, or special token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from trimtab.store.captures.index import RowIndex, TokenRole
from trimtab.store.errors import Invalid, NotFound


@dataclass(frozen=True)
class Where:
    """Rows that meet every condition; a field that is None is no condition.

    prompts: numbers of prompts.
    label: +1, -1 or 0.
    split: its name.
    roles: TokenRole, or their names ("assistant").
    special: False leaves special tokens out, True takes only them.
    """

    prompts: Sequence[int] | None = None
    label: int | None = None
    split: str | None = None
    roles: Sequence[TokenRole | str] | None = None
    special: bool | None = None

    @staticmethod
    def of(where: "WhereLike") -> "Where":
        """A Where, from its fields as a dict too; None selects all rows. Raises Invalid for unknown fields."""
        if isinstance(where, Where):
            return where
        names = [f.name for f in fields(Where)]
        unknown = sorted(set(where or {}) - set(names))
        if unknown:
            raise Invalid(f"cannot select rows by {', '.join(unknown)}; use {', '.join(names)}.")
        return Where(**(where or {}))

    def prompt_mask(self, index: RowIndex) -> np.ndarray:
        """bool [prompts]: those that meet the conditions on prompts. Raises NotFound for prompts or splits that the
        capture lacks."""
        mask = np.ones(index.n_prompts, dtype=bool)
        if self.prompts is not None:
            mask &= _prompt_mask(self.prompts, index.n_prompts)
        if self.label is not None:
            mask &= index.label == self.label
        if self.split is not None:
            splits = sorted(set(index.split.tolist()))
            if self.split not in splits:
                raise NotFound(f"split {self.split!r} is not in this capture; it has {splits}.")
            mask &= index.split == self.split
        return mask

    def row_mask(self, index: RowIndex) -> np.ndarray:
        """bool [rows]: those that meet all conditions. Raises NotFound as `prompt_mask`, Invalid for unknown roles."""
        mask = np.repeat(self.prompt_mask(index), np.diff(index.offsets))
        if self.roles is not None:
            mask &= np.isin(index.role, [_role(role) for role in self.roles])
        if self.special is not None:
            mask &= index.special == self.special
        return mask

    def rows(self, index: RowIndex) -> np.ndarray:
        """int64: the numbers of the rows of `row_mask`, ascending."""
        return np.flatnonzero(self.row_mask(index))


WhereLike: TypeAlias = Where | Mapping[str, Any] | None  # what every reading method accepts as `where`


def _prompt_mask(prompts: Sequence[int], n_prompts: int) -> np.ndarray:
    numbers = np.asarray(prompts)
    if numbers.dtype == bool or (numbers.size and not np.issubdtype(numbers.dtype, np.integer)):
        raise Invalid(f"prompts must be prompt numbers, got {numbers.dtype}.")
    numbers = numbers.astype(np.int64)
    wrong = numbers[(numbers < 0) | (numbers >= n_prompts)]
    if wrong.size:
        raise NotFound(f"prompt {int(wrong[0])} does not exist; the capture has prompts 0..{n_prompts - 1}.")
    mask = np.zeros(n_prompts, dtype=bool)
    mask[numbers] = True
    return mask


def _role(role: TokenRole | str | int) -> int:
    try:
        return int(TokenRole[role.upper()]) if isinstance(role, str) else int(TokenRole(role))
    except (KeyError, ValueError):
        names = ", ".join(r.name.lower() for r in TokenRole)
        raise Invalid(f"role {role!r} is unknown; use {names}.") from None
