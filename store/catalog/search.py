"""Search: which versions satisfy an expression such as `beats_random and kl < 0.3`, and in which order.

The expression is read by Python's own parser and walked; nothing in it is ever executed. It may hold comparisons (`<`,
`<=`, `==`, `!=`, `>`, `>=`, `in`, `not in`), `and`, `or`, `not`, numbers, texts, lists and fields. A field with an
interval counts as its mean; `effect.low` and `effect.high` are its ends. A comparison with a field that a version does
not have is false.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.store.catalog.artifact import Artifact
from trimtab.store.catalog.remarks import Profile
from trimtab.store.digests import JSON
from trimtab.store.errors import Invalid, nearest

Fields = Mapping[str, Any]
SHORT = {"kl": "kl_held_out"}  # what people write, and how the metric is called
ALWAYS = (
    "name", "version", "kind", "ref", "digest", "created", "alias", "tag", "deprecated", "description", "model",
    "fitter", "behaviour", "effect", "kl", "damage", "strength", "site", "beats_random",
)  # fmt: skip
ENDS = ("mean", "low", "high")
MAX_TEXT = 2000
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


@dataclass(frozen=True)
class Searchable:
    """A version beside what can be asked of it."""

    artifact: Artifact
    fields: Fields


def searchable(artifact: Artifact, about: Profile, aliases: Iterable[str]) -> Searchable:
    """A version and its fields: its record, its metrics by name, its remarks."""
    metrics = artifact.metrics if isinstance(artifact.metrics, dict) else {}
    recipe = artifact.recipe if isinstance(artifact.recipe, dict) else {}
    own = {
        "name": artifact.name,
        "version": artifact.version,
        "kind": artifact.kind,
        "ref": artifact.ref,
        "digest": artifact.digest,
        "created": artifact.created,
        "alias": sorted(aliases),
        "tag": list(about.tags),
        "deprecated": about.deprecated is not None,
        "description": about.description,
        "model": _inner(recipe.get("model"), "id"),
        "fitter": _inner(recipe.get("fit"), "fitter"),
    }
    short = {name: metrics[full] for name, full in SHORT.items() if full in metrics}
    return Searchable(artifact, {**metrics, **short, **own})


def search(versions: Sequence[Searchable], where: str = "", sort: str = "") -> list[Searchable]:
    """Those that satisfy `where` (all, when it is empty), in the order of a field: `effect` ascending, `-effect`
    descending, versions without it last. Raises Invalid, naming what is wrong in either."""
    names = sorted({*ALWAYS, *(name for one in versions for name in one.fields if name.isidentifier())})
    test = parsed(where, names) if where.strip() else None
    results = [one for one in versions if test is None or _holds(test, one.fields)]
    return _sorted(results, sort.strip(), names) if sort.strip() else results


def parsed(text: str, names: Sequence[str]) -> ast.expr:
    """The expression, checked. Raises Invalid for anything but what this module's head names."""
    if len(text) > MAX_TEXT:
        raise Invalid(f"a search has at most {MAX_TEXT} characters, this one has {len(text)}.")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Invalid(f"{text[:200]!r} is no search; write for example `beats_random and kl < 0.3`.") from None
    _check(tree, text, names)
    return tree


def _check(node: ast.expr, text: str, names: Sequence[str]) -> None:
    match node:
        case ast.BoolOp(values=inner):
            parts = inner
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            parts = [operand]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            parts = []
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARE for op in ops):
            parts = [left, *others]
        case ast.List(elts=inner) | ast.Tuple(elts=inner):
            parts = inner
        case ast.Constant(value=str() | int() | float()):
            parts = []
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id=name), attr="mean" | "low" | "high"):
            parts = []
            if name not in names:
                raise Invalid(f"no version has a field {name!r}: {nearest(name, names)}")
        case _:
            segment = ast.get_source_segment(text.strip(), node) or type(node).__name__
            raise Invalid(
                f"{segment[:80]!r} cannot be in a search; fields, numbers, texts, comparisons, and, or, not can."
            )
    for part in parts:
        _check(part, text, names)


def _holds(node: ast.expr, fields: Fields) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_holds(part, fields) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_holds(part, fields) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _holds(operand, fields)
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(part, fields) for part in (left, *others)]
            return all(
                _compared(op, *pair) for op, pair in zip(ops, zip(values, values[1:], strict=False), strict=True)
            )
    return bool(_value(node, fields))


def _compared(op: ast.cmpop, one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    try:
        return bool(COMPARE[type(op)](one, other))
    except TypeError:
        raise Invalid(f"{_told(one)} cannot be compared with {_told(other)} in this way.") from None


def _value(node: ast.expr, fields: Fields) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, fields) for part in parts]
        case ast.Name(id=name):
            return _plain(fields.get(name), "mean")
        case ast.Attribute(value=ast.Name(id=name), attr=end):
            return _plain(fields.get(name), end)
    return _holds(node, fields)  # a comparison inside a comparison


def _plain(value: Any, end: str) -> Any:
    """One end of an interval; any other value as it is, with no ends of its own."""
    if isinstance(value, Mapping):
        return value.get(end)
    return value if end == "mean" else None


def _sorted(versions: Sequence[Searchable], sort: str, names: Sequence[str]) -> list[Searchable]:
    descending, text = sort.startswith("-"), sort.removeprefix("-")
    node = parsed(text, names)
    if not isinstance(node, ast.Name | ast.Attribute):
        raise Invalid(f"{sort[:80]!r} is no order; write a field, or -field for the largest first.")
    keyed = [(_value(node, one.fields), one) for one in versions]
    present = [pair for pair in keyed if isinstance(pair[0], str | int | float)]
    if len({isinstance(value, str) for value, _ in present}) > 1:
        raise Invalid(f"{text} is a text in some versions and a number in others, which have no order.")
    ranked = sorted(present, key=lambda pair: pair[0], reverse=descending)
    return [one for _, one in ranked] + [one for value, one in keyed if not isinstance(value, str | int | float)]


def _told(value: Any) -> str:
    kind = "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "a number"
    return f"{kind} ({str(value)[:40]})"


def _inner(value: JSON, key: str) -> JSON:
    """The value, or that of a key in it where it is a section."""
    return value.get(key) if isinstance(value, dict) else value
