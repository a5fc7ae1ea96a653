"""Every error a user of `trimtab.steering` can cause: one message that names the thing, the numbers, the
consequence and the cure. The CLI prints the message and exits with 2; it never shows a traceback for these."""

import difflib
from collections.abc import Iterable


class SteeringError(Exception):
    """Base of all user errors of the steering layer."""


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that a misspelt word most likely means; None when all are far from it."""
    return next(iter(difflib.get_close_matches(word, list(options), n=1, cutoff=0.55)), None)


class UnknownName(SteeringError):
    """A name that is not on the shelf; the message lists the nearest right ones."""

    def __init__(self, what: str, name: str, names: Iterable[str]):
        options = sorted(names)
        near = nearest(name, options)
        hint = f"did you mean '{near}'? " if near else ""
        super().__init__(f"unknown {what} '{name}': {hint}known: {', '.join(options) or 'none'}")


class BadSite(SteeringError):
    """A site that does not exist in this model, or a text that is not a site."""


class BadSpan(SteeringError):
    """A text that is not a span, or a span that this text of tokens cannot answer."""


class BadPlan(SteeringError):
    """A plan that does not fit the model, or arrays and header that are not a plan."""


class BadMove(SteeringError):
    """Fields of a Move that do not make one: shapes, directions, bounds."""


class BadGate(SteeringError):
    """Fields of a Gate that do not make one: vectors, thresholds, schedules."""


class BadRows(SteeringError):
    """Rows of activations from which nothing can be fitted."""


class SilentNoOp(SteeringError):
    """A hook did not fire as often as the model ran: the edit or the reading would have been a silent no-op."""


class UnsupportedModel(SteeringError):
    """A model family without a row, or a row that the proof on load refuted."""


class CannotFold(SteeringError):
    """The plan has no exact equivalent in weights; the message says why."""


class BadQuestion(SteeringError):
    """A question that cannot be asked, or one that lacks what a localiser needs."""


class BadRanking(SteeringError):
    """Values and units that do not belong together, or arrays and header that are not a ranking."""


class CannotExport(SteeringError):
    """A plan that a file format cannot say; the message names the part."""


class BadFile(SteeringError):
    """A file that is not what its format says, or that holds what a plan cannot say."""


class BadExpression(SteeringError):
    """A text or JSON that says nothing about how to steer: names, factors and bounds that cannot be read."""


class CannotPack(SteeringError):
    """A plan that cannot act in passes that pack many requests, or an engine that cannot go on."""
