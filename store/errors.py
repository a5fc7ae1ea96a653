"""Errors of the store. Every message is one line: the thing, the numbers, the consequence, the cure."""

import difflib
from collections.abc import Iterable


class StoreError(Exception):
    """Base of all errors of the store that a user can do something about; the text can be shown as it is."""


class NotFound(StoreError):
    """A name, version, alias, site or store that does not exist."""


class Conflict(StoreError):
    """Somebody else changed the same thing first."""


class Mismatch(StoreError):
    """Two things that must agree do not (a capture's fingerprint, a shape, a digest)."""


class Invalid(StoreError):
    """A value that can never be accepted (a bad name, NaN in a row, an object array)."""


class Corrupt(StoreError):
    """Bytes on disk that are not what was written."""


class ClockSkew(StoreError):
    """This machine's clock is too far from another's, or from the storage's."""


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of a 'not found' message: up to three of `words` that are like `word`, otherwise the first eight of
    `words`."""
    words = sorted(words)
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not words:
        return "there are none yet."
    more = f" and {len(words) - 8} more" if len(words) > 8 else ""
    return f"known: {', '.join(words[:8])}{more}."
