"""Which rows are meant."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from trimtab.store.captures.schema import Role, RowIndex
from trimtab.store.errors import Invalid, NotFound


@dataclass(frozen=True)
class Where:
    """A selection of rows; what is None selects all, and everything given must hold.

    prompts: prompt numbers.  label: +1, -1 or 0.  split: its name.  roles: Role or names ("assistant").
    special: False leaves special tokens out, True takes only them.
    """

    prompts: Sequence[int] | None = None
    label: int | None = None
    split: str | None = None
    roles: Sequence[Role | str] | None = None
    special: bool | None = None

    @staticmethod
    def of(where: "Where | dict | None") -> "Where":
        """Accept a Where, its fields as a dict, or None (everything). Raises Invalid for unknown fields."""
        if isinstance(where, Where):
            return where
        known = [f.name for f in fields(Where)]
        unknown = sorted(set(where or {}) - set(known))
        if unknown:
            raise Invalid(f"cannot select rows by {', '.join(unknown)}; use {', '.join(known)}.")
        return Where(**(where or {}))

    def prompt_mask(self, index: RowIndex) -> np.ndarray:
        """bool [prompts]. Raises NotFound for prompts or splits that the capture lacks."""
        mask = np.ones(index.n_prompts, dtype=bool)
        if self.prompts is not None:
            mask &= _chosen(self.prompts, index.n_prompts)
        if self.label is not None:
            mask &= index.label == self.label
        if self.split is not None:
            known = sorted(set(index.split.tolist()))
            if self.split not in known:
                raise NotFound(f"split {self.split!r} is not in this capture; it has {known}.")
            mask &= index.split == self.split
        return mask

    def row_mask(self, index: RowIndex) -> np.ndarray:
        """bool [rows]."""
        mask = np.repeat(self.prompt_mask(index), np.diff(index.offsets))
        if self.roles is not None:
            mask &= np.isin(index.role, [_role(role) for role in self.roles])
        if self.special is not None:
            mask &= index.special == self.special
        return mask


def _chosen(prompts: Sequence[int], n_prompts: int) -> np.ndarray:
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


def _role(role: Role | str | int) -> int:
    try:
        return int(Role[role.upper()]) if isinstance(role, str) else int(Role(role))
    except (KeyError, ValueError):
        names = ", ".join(r.name.lower() for r in Role)
        raise Invalid(f"role {role!r} is unknown; use {names}.") from None
