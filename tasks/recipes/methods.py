"""Fields of fitters, localisers, gates and moves from plain values, as YAML and `--set` give them.

Values are checked strictly against the type of the field, except that a list becomes a tuple where one is declared, a
list of numbers becomes a tensor, text becomes a Site, and `{name: ..., fields: {...}}` becomes a gate or a move.
"""

import dataclasses
import json
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import torch
from pydantic import PlainValidator, TypeAdapter, ValidationError

from trimtab.steering.errors import SteeringError
from trimtab.steering.gates import GATES, Gate
from trimtab.steering.model.site import Site
from trimtab.steering.moves import MOVES, Move
from trimtab.steering.shelf import Shelf
from trimtab.tasks.errors import did_you_mean
from trimtab.tasks.recipes.problems import Problem

NESTED: dict[type, Shelf[Any]] = {Gate: GATES, Move: MOVES}


def method_problems(
    shelf: Shelf[Any], word: str, name: str, fields: Mapping[str, Any], key: str = "method"
) -> Iterator[Problem]:
    """(key, message) of everything wrong with a method's name and fields. word: for the method, such as `localiser`."""
    if name not in shelf:
        yield (key,), f"unknown {word} '{name}'{did_you_mean(name, shelf)}"
        return
    problems = [(("fields", field), message) for field, message in _field_problems(shelf[name], word, fields)]
    yield from problems
    if problems:
        return
    try:
        build(shelf[name], fields)
    except (SteeringError, ValueError, TypeError) as error:
        yield ("fields",), f"{name}: {' '.join(str(error).split())}"


def make_method(shelf: Shelf[Any], name: str, fields: Mapping[str, Any]) -> Any:
    """The method with these fields; what `method_problems` finds wrong raises here (UnknownName, ValueError, ...)."""
    return build(shelf[name], fields)


def build(cls: type, fields: Mapping[str, Any]) -> Any:
    """A dataclass from plain values. Raises TypeError for an unknown field, ValueError or SteeringError for a value."""
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], value) if name in hints else value for name, value in fields.items()})


def settable(cls: type) -> dict[str, Any]:
    """The type of every field that a method can be given."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _field_problems(cls: type, word: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hints = settable(cls)
    for name, value in fields.items():
        if not hints:
            yield name, f"unknown field; this {word} has none"
        elif name not in hints:
            yield name, f"unknown field{did_you_mean(name, hints)}"
        else:
            try:
                _value(hints[name], value)
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Value error, ")
                yield name, f"{message[0].lower()}{message[1:]}, got {value!r}"


def _value(hint: Any, value: Any) -> Any:
    """A plain value as the type of a field. By way of JSON, which is strict, yet takes a list for a tuple."""
    return TypeAdapter(_readable(hint)).validate_json(json.dumps(value), strict=True)


def _readable(hint: Any) -> Any:
    """The same type, with a reader from plain values in place of each type that JSON does not have."""
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(map(_readable, get_args(hint)))]  # noqa: UP007 (of a list that is known at run time)
    if get_origin(hint) is tuple:
        return tuple[tuple(part if part is Ellipsis else _readable(part) for part in get_args(hint))]  # type: ignore[misc]
    reader = _reader(hint)
    return hint if reader is None else Annotated[Any, PlainValidator(_telling(reader))]


def _reader(hint: Any) -> Callable[[Any], Any] | None:
    if getattr(hint, "array_type", None) is torch.Tensor:  # jaxtyping's Float[Tensor, "d"]
        return lambda value: _tensor(value, hint)
    if hint is Site:
        return Site.parse
    if hint in NESTED:
        return lambda value: _nested(NESTED[hint], value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return lambda value: build(hint, value)
    return None


def _telling(reader: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The reader with its errors as those of one value, which pydantic collects."""

    def read(value: Any) -> Any:
        try:
            return reader(value)
        except (SteeringError, TypeError, AttributeError, LookupError, RuntimeError) as error:
            raise ValueError(" ".join(str(error).split())) from None

    return read


def _tensor(value: Any, hint: Any) -> torch.Tensor:
    tensor = torch.tensor(value, dtype=torch.float32)
    if not isinstance(tensor, hint):
        raise ValueError(f"must be numbers of shape [{hint.dim_str}], not {list(tensor.shape)}")
    return tensor


def _nested(shelf: Shelf[Any], value: Any) -> Any:
    if not isinstance(value, Mapping) or "name" not in value or value.keys() - {"name", "fields"}:
        raise ValueError("must be `{name: ..., fields: {...}}`")
    return make_method(shelf, value["name"], value.get("fields", {}))
