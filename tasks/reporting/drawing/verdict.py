"""A verdict from its JSON, and the questions a report asks of it."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from trimtab.steering.judge.verdict import Contender, Verdict

T = TypeVar("T")

KINDS: dict[str, str] = {
    "plan": "this plan",
    "method": "other method",
    "system_prompt": "system prompt",
    "token_bias": "token bias",
    "shuffled": "shuffled labels",
    "flip": "sign flipped",
    "random": "random",
    "covariance": "random, same covariance",
}
PLACEBOS = ("random", "covariance", "shuffled", "flip")
RANDOM = ("random", "covariance")


def read_verdict(data: Mapping[str, Any]) -> Verdict:
    """The reverse of `Verdict.to_json`, also after a trip through JSON text. Parts that may be empty may be
    absent, unknown keys are ignored. Raises ValueError naming the field that is missing."""
    return read(Verdict, data)


def read(kind: type[T], data: Mapping[str, Any]) -> T:
    """A dataclass from a mapping, field by field, by its type hints."""
    hints = get_type_hints(kind)
    own = fields(cast(Any, kind))
    return kind(**{f.name: _field(kind, f, hints[f.name], data) for f in own})


def _field(kind: type, field: "Field[Any]", hint: Any, data: Mapping[str, Any]) -> Any:
    if field.name in data:
        return _value(hint, data[field.name])
    if field.default is not MISSING:
        return field.default
    if type(None) in get_args(hint):
        return None
    if get_origin(hint) in (tuple, dict):
        return get_origin(hint)()
    raise ValueError(
        f"the verdict has no {kind.__name__}.{field.name}: a report needs it and cannot guess it; "
        f"pass Verdict.to_json() (found: {', '.join(map(str, data)) or 'nothing'})"
    )


def _value(hint: Any, value: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(next(a for a in inner if a is not type(None)), value)
    if origin is tuple:
        each = inner[:1] * len(value) if inner[1:] == (Ellipsis,) else inner
        return tuple(_value(one, item) for one, item in zip(each, value, strict=True))
    if is_dataclass(hint):
        return read(cast(type, hint), value)
    if hint is float:
        # strict JSON has no nan, so writers put null where a float could not be computed
        return math.nan if value is None else float(value)
    return dict(value) if origin is dict else value


def plan_of(verdict: Verdict) -> Contender | None:
    """The contender that is the plan itself."""
    return next((c for c in verdict.contenders if c.kind == "plan"), None)


def best_placebo(verdict: Verdict) -> Contender | None:
    """The placebo with the largest effect at the budget: the hardest one to beat."""
    dosed = [c for c in verdict.contenders if c.kind in PLACEBOS and c.reachable]
    placebos = [c for c in dosed if math.isfinite(c.effect.margin.mean)]
    return max(placebos, key=lambda c: c.effect.margin.mean, default=None)


def in_order(verdict: Verdict) -> list[Contender]:
    """Plan first, then by kind, then by effect, largest first."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(
        verdict.contenders,
        key=lambda c: (order.get(c.kind, len(order)), -_sortable(c.effect.margin.mean), c.name),
    )


def kind_of(verdict: Verdict, name: str) -> str:
    """The kind of a contender by its name; an unknown one counts as a method."""
    return next((c.kind for c in verdict.contenders if c.name == name), "method")


def _sortable(value: float) -> float:
    return -math.inf if math.isnan(value) else value
