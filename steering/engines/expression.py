"""Steering expressions: what a request to a server says about steering, as text or JSON. No torch is imported here.

    "cheerful@prod"                          a published plan at its published strength
    "0.5 cheerful@prod + 0.3 brief@2"        a sum of plans, each times a factor
    "cheerful@prod*0.8 - 0.2 toxic"          factors may stand behind; a minus between spaces subtracts
    {"plan": "cheerful@prod", "strength": 2, "govern": 0.5}
    {"plan": "cheerful@prod", "kl": 0.2}

Names are those of the catalog ("cheerful", "cheerful@3", "cheerful@prod", "sae-features:17"); whether they exist is for
the reader to look up.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trimtab.steering.errors import BadExpression, nearest

REF = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,79}(@[a-z0-9_-][a-z0-9._-]{0,79})?(:[0-9]{1,9})?")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
LONGEST, MOST_TERMS = 2000, 16  # characters and plans of one expression
FIELDS = ("plan", "strength", "kl", "govern", "govern_total")


@dataclass(frozen=True)
class Term:
    """A plan of the catalog times a factor; 1 is its published strength."""

    ref: str
    factor: float = 1.0

    def __str__(self) -> str:
        return self.ref if self.factor == 1 else f"{self.factor:g} {self.ref}"


@dataclass(frozen=True)
class Steering:
    """What a request asks for. terms: their sum steers; none is the unsteered model.

    kl: the sum's strength is to be found, so that it costs this many nats per token (None: the factors stand). govern,
    govern_total: bounds on every token's and on an answer's KL divergence from the unsteered model, nats (None: none).
    """

    terms: tuple[Term, ...] = ()
    kl: float | None = None
    govern: float | None = None
    govern_total: float | None = None

    @property
    def governed(self) -> bool:
        """True when a bound was asked for."""
        return self.govern is not None or self.govern_total is not None

    @property
    def expression(self) -> str:
        """The sum as text that `parse` reads back."""
        return " + ".join(map(str, self.terms))

    @classmethod
    def parse(cls, value: Any) -> "Steering":
        """From text, a mapping with FIELDS, or None (unsteered). Raises BadExpression, which names the part."""
        if value is None:
            return cls()
        if isinstance(value, str):
            return cls(terms_of(value))
        if isinstance(value, Mapping):
            return _from_fields(value)
        raise BadExpression(f"steering is a {type(value).__name__}; write text such as 'cheerful@prod', or an object")


def terms_of(text: str) -> tuple[Term, ...]:
    """The terms of an expression; none for blank text. Raises BadExpression."""
    if len(text) > LONGEST:
        raise BadExpression(f"the steering expression has {len(text)} characters; at most {LONGEST} are read")
    if not text.strip():
        return ()
    pieces = re.split(r"(?:^|\s)([+-])(?=\s)|(\+)", f" {text.strip()}")
    terms = [_term(body, -1.0 if sign == "-" else 1.0, text) for sign, body in _signed(pieces)]
    if len(terms) > MOST_TERMS:
        raise BadExpression(f"'{_short(text)}' adds {len(terms)} plans; at most {MOST_TERMS} are added")
    return tuple(terms)


def _signed(pieces: list[Any]) -> list[tuple[str, str]]:
    """(sign, body) of each term, from a split that keeps the signs; a sign may open the text."""
    first, rest = pieces[0], pieces[1:]
    signed = [(rest[k] or rest[k + 1], rest[k + 2]) for k in range(0, len(rest), 3)]
    return signed if signed and not first.strip() else [("+", first), *signed]


def _term(body: str, sign: float, text: str) -> Term:
    words = body.replace("*", " ").split()
    if len(words) == 1 and REF.fullmatch(words[0]):
        return Term(words[0], sign)
    if len(words) == 2 and body.count("*") <= 1:
        for factor, ref in (words, reversed(words)):
            if NUMBER.fullmatch(factor) and REF.fullmatch(ref) and (factor == words[0] or "*" in body):
                return Term(ref, _finite("a factor", factor) * sign)
    raise BadExpression(
        f"'{_short(body.strip())}' in the steering expression '{_short(text)}' is no plan with a factor; write "
        f"'cheerful@prod', '0.5 cheerful@prod' or '0.5 cheerful@prod + 0.3 brief@2'"
    )


def _from_fields(fields: Mapping[str, Any]) -> Steering:
    for name in fields:
        if name not in FIELDS:
            near = nearest(str(name), FIELDS)
            hint = f"did you mean '{near}'? " if near else ""
            raise BadExpression(f"steering has no field '{_short(str(name))}': {hint}known: {', '.join(FIELDS)}")
    plan = fields.get("plan")
    if plan is not None and not isinstance(plan, str):
        raise BadExpression(f"steering.plan is a {type(plan).__name__}; write text such as 'cheerful@prod'")
    if fields.get("strength") is not None and fields.get("kl") is not None:
        raise BadExpression("steering.strength and steering.kl: give one; kl finds the strength")
    terms = terms_of(plan or "")
    budgets = {name: _budget(name, fields.get(name)) for name in ("kl", "govern", "govern_total")}
    asks = [name for name in FIELDS[1:] if fields.get(name) is not None]
    if asks and not terms:
        raise BadExpression(f"steering.{asks[0]} is given without a plan; name one in steering.plan")
    strength = 1.0 if fields.get("strength") is None else _finite("steering.strength", fields["strength"])
    return Steering(tuple(replace(term, factor=term.factor * strength) for term in terms), **budgets)


def _budget(name: str, value: Any) -> float | None:
    if value is None:
        return None
    nats = _finite(f"steering.{name}", value)
    if nats <= 0:
        raise BadExpression(f"steering.{name} is {nats:g}; a budget is above 0 nats and finite")
    return nats


def _finite(what: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number and not (isinstance(value, str) and what == "a factor"):
        raise BadExpression(f"{what} is a {type(value).__name__}; it must be a number")
    try:
        amount = float(value)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        raise BadExpression(f"{what} is {_short(str(value))}; it must be a finite number")
    return amount


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
