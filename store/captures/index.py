"""The token index of a capture: which rows belong to which prompt, and what each row and each prompt is.

`TokenIndex` lies in memory. An index that is too large for that is read from a store or grown on disk (stored_index.py)
and has the same digest.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np

from trimtab.store.digests import json_digest, pieces_digest, texts_digest
from trimtab.store.errors import Invalid

INDEX_ROW = {"token_id": np.int32, "position": np.int32, "role": np.uint8, "special": np.bool_}  # [rows] each
INDEX_PROMPT = {"label": np.int8, "pair": np.int32, "split": np.str_}  # [prompts] each


class TokenRole(IntEnum):
    """Who wrote a token, as the number that is stored."""

    SYSTEM = 0
    USER = 1
    ASSISTANT = 2
    COMPLETION = 3
    OTHER = 4


class Index(ABC):
    """The arrays of a token index, wherever they lie: each can be read in pieces. `TokenIndex` describes them."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Rows of the capture."""

    @property
    @abstractmethod
    def n_prompts(self) -> int:
        """Prompts of the capture."""

    @abstractmethod
    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The array of this name ("offsets", "token_id", ...) in consecutive pieces."""

    def offsets_at(self, prompts: np.ndarray) -> np.ndarray:
        """offsets[prompts] for ascending `prompts`, with one piece in memory at a time."""
        values, start = [np.empty(0, np.int64)], 0
        for piece in self.pieces("offsets"):
            low, high = np.searchsorted(prompts, (start, start + len(piece)))
            values.append(piece[prompts[low:high] - start])
            start += len(piece)
        return np.concatenate(values)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over all arrays, read in pieces. It does not depend on where the index lies."""
        parts = {"offsets": pieces_digest(np.dtype(np.int64), (self.n_prompts + 1,), self.pieces("offsets"))}
        for name, dtype in INDEX_ROW.items():
            parts[name] = pieces_digest(np.dtype(dtype), (self.n_rows,), self.pieces(name))
        for name in ("label", "pair"):
            parts[name] = pieces_digest(np.dtype(INDEX_PROMPT[name]), (self.n_prompts,), self.pieces(name))
        return json_digest(parts | {"split": texts_digest(self.pieces("split"))})


class RowIndex(Index):
    """An index whose arrays can be read whole, as attributes: TokenIndex, and the index of a store."""

    offsets: np.ndarray
    token_id: np.ndarray
    position: np.ndarray
    role: np.ndarray
    special: np.ndarray
    label: np.ndarray
    pair: np.ndarray
    split: np.ndarray

    @property
    def prompt(self) -> np.ndarray:
        """[rows] int: the number of the prompt that each row belongs to."""
        return np.repeat(np.arange(self.n_prompts), np.diff(self.offsets))


@dataclass(frozen=True, eq=False)
class TokenIndex(RowIndex):
    """A token index in memory. The arrays are converted to the dtypes that are stored, and made read-only.

    offsets [prompts + 1]: the first row of each prompt; the rows of prompt i are offsets[i] .. offsets[i + 1].
    token_id [rows]: -1 where there is none.
    position [rows]: counted in real tokens of the prompt, from 0; -1 for a row that is pooled over tokens.
    role [rows]: a TokenRole.
    special [rows] bool: a special token of the tokenizer.
    label [prompts]: +1 positive, -1 negative, 0 without a label.
    pair [prompts]: prompts with the same number >= 0 form a pair; -1 for a prompt without a partner.
    split [prompts] text: "fit", "report", ...; "" for none. May be left out.

    Raises Invalid when the lengths disagree, or offsets do not start at 0 or decrease.
    """

    offsets: np.ndarray
    token_id: np.ndarray
    position: np.ndarray
    role: np.ndarray
    special: np.ndarray
    label: np.ndarray
    pair: np.ndarray
    split: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.str_))

    def __post_init__(self) -> None:
        self._set("offsets", np.asarray(self.offsets, dtype=np.int64))
        if self.offsets.ndim != 1 or len(self.offsets) < 2 or self.offsets[0] != 0:
            raise Invalid("offsets must be [prompts + 1] and start at 0; there must be at least one prompt.")
        if (np.diff(self.offsets) < 0).any():
            raise Invalid("offsets must not decrease: a prompt cannot have a negative number of rows.")
        if self.split.size == 0:
            self._set("split", np.full(self.n_prompts, ""))
        for name, dtype in (INDEX_ROW | INDEX_PROMPT).items():
            self._set(name, np.asarray(getattr(self, name)).astype(dtype))
            length = self.n_rows if name in INDEX_ROW else self.n_prompts
            if getattr(self, name).shape != (length,):
                raise Invalid(f"{name} has shape {getattr(self, name).shape}, but the offsets need ({length},).")

    def _set(self, name: str, value: np.ndarray) -> None:
        value = value.copy() if value is getattr(self, name) else value
        value.flags.writeable = False
        object.__setattr__(self, name, value)

    @staticmethod
    def plain(counts: Sequence[int] | np.ndarray) -> "TokenIndex":
        """The index of prompts with `counts` rows each, and nothing else known: role OTHER, no token ids, no labels."""
        offsets = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])
        rows, prompts = int(offsets[-1]), len(offsets) - 1
        position = np.arange(rows) - np.repeat(offsets[:-1], np.diff(offsets))
        return TokenIndex(
            offsets=offsets,
            token_id=np.full(rows, -1),
            position=position,
            role=np.full(rows, TokenRole.OTHER),
            special=np.zeros(rows, dtype=bool),
            label=np.zeros(prompts),
            pair=np.full(prompts, -1),
        )

    @property
    def n_rows(self) -> int:
        """Rows of the capture."""
        return int(self.offsets[-1])

    @property
    def n_prompts(self) -> int:
        """Prompts of the capture."""
        return len(self.offsets) - 1

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The array, in one piece."""
        yield getattr(self, name)
