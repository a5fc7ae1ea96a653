"""What the store says when it cannot do what was asked.

Every message is one clear line: the thing, the numbers, the consequence, the cure.
"""

import difflib
from collections.abc import Iterable


class StoreError(Exception):
    """A user error of the store layer; its text is fit to be shown as it is."""


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


def nearest(word: str, known: Iterable[str]) -> str:
    """The tail of a 'not found' message: the closest known words, or all of a few, or nothing at all."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not known:
        return "there are none yet."
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return f"known: {', '.join(known[:8])}{more}."
