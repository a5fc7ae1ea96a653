"""What a user did wrong in a recipe, a data file or on the command line, as lines that are fit to be shown."""

from collections.abc import Iterable, Sequence

from trimtab.steering.errors import SteeringError, nearest
from trimtab.store.errors import StoreError


class RecipeError(Exception):
    """One line per mistake; the first begins with the file. `str(error)` joins them with newlines."""

    def __init__(self, lines: str | Sequence[str]):
        self.lines: tuple[str, ...] = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (self.lines,)


class NegativeOutcome(RecipeError):
    """A job that ran to its end, with a negative answer. result: what it published, where a flow raises this."""

    result: object = None


class DataError(RecipeError):
    """A data file that cannot be used; lines begin with `file:line:`."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`; did you mean 'dtype'?`, or the known words when none is near."""
    options = sorted(names)
    near = nearest(word, options)
    return f"; did you mean '{near}'?" if near else f"; known: {', '.join(options) or 'none'}"


# What the command line shows as `error: ...`, without a traceback; anything else is a bug of ours and shows one.
USER_ERRORS = (RecipeError, SteeringError, StoreError, OSError)
