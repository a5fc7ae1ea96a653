"""The shelves as a table: every method with its meaning, source and fields, read from the classes themselves."""

import dataclasses
import inspect
from typing import Any

from trimtab.steering.fitters import FITTERS
from trimtab.steering.gates import GATES
from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.moves import MOVES
from trimtab.steering.shelf import Shelf

SHELVES: dict[str, Shelf[Any]] = {
    "fitter": FITTERS,
    "localiser": LOCALISERS,
    "gate": GATES,
    "move": MOVES,
}


def methods() -> list[dict[str, Any]]:
    """One row per file of each shelf. A broken file raises its own error: a list without it would hide it."""
    return [_row(kind, name, shelf[name]) for kind, shelf in SHELVES.items() for name in shelf]


def _row(kind: str, name: str, cls: type) -> dict[str, Any]:
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return {
        "kind": kind,
        "name": name,
        "meaning": _meaning(cls),
        "source": getattr(cls, "source", None),
        "fields": {field.name: _default(field) for field in fields},
        "page": inspect.cleandoc(cls.__doc__ or ""),
    }


def _meaning(cls: type) -> str:
    """The first line of the file's docstring: what the method is, in a sentence."""
    module = inspect.getmodule(cls)
    return (inspect.getdoc(module) or "").partition("\n")[0].strip()


def _default(field: dataclasses.Field) -> object:
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
        return vars(default) if dataclasses.is_dataclass(default) else default
    if field.default is dataclasses.MISSING:
        return "required"
    return list(field.default) if isinstance(field.default, tuple) else field.default
