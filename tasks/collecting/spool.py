"""Texts on disk: a recipe's examples are tokenised once and read back region by region, so memory does not grow with
their number. The files have no name, so they are gone when the process ends, also when it is killed."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from trimtab.steering.model.tokens import Role, Tokens
from trimtab.steering.running.reading import Rows
from trimtab.store import TokenIndex
from trimtab.store.captures.index import TokenRole
from trimtab.store.captures.stored_index import Column, GrowingIndex
from trimtab.tasks.data.prompts import Text, feed

BLOCK = 256  # texts
STORED_ROLE = np.full(256, TokenRole.OTHER, np.uint8)
for _role, _stored in {
    Role.SYSTEM: TokenRole.SYSTEM,
    Role.USER: TokenRole.USER,
    Role.ASSISTANT: TokenRole.ASSISTANT,
    Role.COMPLETION: TokenRole.COMPLETION,
}.items():
    STORED_ROLE[_role] = _stored


class Spool:
    """Tokens of many texts, and the token index of the rows that a selection keeps of them.

    digest: sha256 over token ids, prompt lengths, labels, pairs and splits. tokens: in all texts together.
    """

    def __init__(self, texts: Iterable[Text], selection: Rows, folder: Path | None = None) -> None:
        """Reads `texts` through once. folder: where unnamed files lie, about 20 bytes a token."""
        self.index = GrowingIndex(folder)
        self._selection = selection
        self._ids, self._marks = Column(np.int32, folder), Column(np.uint8, folder)
        self._stops, self._prompts = Column(np.int64, folder), Column(np.int32, folder)
        self._rows = Column(np.int64, folder)
        digest = hashlib.sha256()
        for block in _blocks(texts):
            for example, tokens in block:
                feed(digest, tokens, example.label, example.pair, example.split)
                self._add(tokens)
            self._extend(block)
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def tokens(self) -> int:
        return len(self._ids)

    def read(self, start: int, stop: int) -> list[Tokens]:
        """Texts start..stop."""
        edges = self._edges(start, stop)
        ids = self._ids.read(int(edges[0]), int(edges[-1])).astype(np.int64)
        marks = self._marks.read(int(edges[0]), int(edges[-1]))
        prompts, cuts = self._prompts.read(start, stop), edges[1:-1] - edges[0]
        pieces = zip(np.split(ids, cuts), prompts, np.split(marks, cuts), strict=True)
        return [Tokens(i, int(length), mark >> 1, (mark & 1).astype(bool)) for i, length, mark in pieces]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """[stop - start] how many rows each of these texts gives."""
        return self._rows.read(start, stop)

    def digest_of_first(self, many: int) -> str:
        """`digest` of the first texts alone."""
        digest = hashlib.sha256()
        for start in range(0, many, BLOCK):
            stop = min(many, start + BLOCK)
            marks = [self.index.read(name, start, stop) for name in ("label", "pair", "split")]
            for text, *marked in zip(self.read(start, stop), *marks, strict=True):
                feed(digest, text, *marked)
        return digest.hexdigest()

    def _edges(self, start: int, stop: int) -> np.ndarray:
        if start == 0:
            return np.concatenate([[0], self._stops.read(0, stop)])
        return self._stops.read(start - 1, stop)

    def _add(self, text: Tokens) -> None:
        self._ids.append(text.ids)
        self._marks.append(text.roles.astype(np.uint8) << 1 | text.special)
        self._stops.append(np.array([len(self._ids)]))
        self._prompts.append(np.array([text.prompt_length]))

    def _extend(self, block: list[Text]) -> None:
        index = index_of(block, self._selection)
        self._rows.append(np.diff(index.offsets))
        self.index.extend(index)


def _blocks(texts: Iterable[Text]) -> Iterator[list[Text]]:
    waiting = iter(texts)
    while block := list(islice(waiting, BLOCK)):
        yield block


def index_of(texts: list[Text], selection: Rows) -> TokenIndex:
    """The token index of a capture: for every row its text, token id, position and role. A pooled row is a mean over
    tokens, so it has no id or position (-1)."""
    token_indices = [selection.tokens(tokens).numpy() for _, tokens in texts]
    prompts = {name: np.array([getattr(example, name) for example, _ in texts]) for name in ("label", "pair", "split")}
    if selection.pool is not None:
        many = len(texts)
        unknown, no = np.full(many, -1), np.zeros(many, bool)
        return TokenIndex(np.arange(many + 1), unknown, unknown, np.full(many, TokenRole.OTHER), no, **prompts)
    pairs = [(tokens, index) for (_, tokens), index in zip(texts, token_indices, strict=True)]
    return TokenIndex(
        offsets=np.cumsum([0] + [len(k) for k in token_indices]),
        token_id=np.concatenate([tokens.ids[k] for tokens, k in pairs]),
        position=np.concatenate(token_indices),
        role=STORED_ROLE[np.concatenate([tokens.roles[k] for tokens, k in pairs])],
        special=np.concatenate([tokens.special[k] for tokens, k in pairs]),
        **prompts,
    )
