"""Parts of a plan (moves, gates, a controller's network) as arrays and JSON, by walking their dataclass fields.

A tensor or a gate that several interventions share is written once, and shared again when it is read back.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.errors import BadPlan
from trimtab.steering.gates import GATES, Gate
from trimtab.steering.gates.controlled import Network
from trimtab.steering.model.site import Site
from trimtab.steering.moves import MOVES
from trimtab.steering.moves.base import Move

NETWORK = "network"


class PartWriter:
    """arrays: float32 numpy by name, filled as parts are written."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._kept: list[Tensor] = []  # ids stay taken while the writer lives

    def part(self, path: str, part: "Move | Gate | Network") -> dict[str, Any]:
        """The header of one part; its tensors become arrays `{path}/{field}`. Raises BadPlan for other fields."""
        held = {f.name: self._field(f"{path}/{f.name}", getattr(part, f.name)) for f in fields(part)}  # type: ignore[arg-type]
        return {"name": _name(part), "fields": held}

    def _field(self, path: str, value: Any) -> dict[str, Any]:
        """`array`, `move`, `gate`, `network`, `site`, `items`, `open` (an infinity, which JSON has not) or `value`."""
        if isinstance(value, Tensor):
            return {"array": self._array(path, value)}
        for kind, cls in (("move", Move), ("gate", Gate), (NETWORK, Network)):
            if isinstance(value, cls):
                return {kind: self.part(path, value)}
        if isinstance(value, Site):
            return {"site": str(value)}
        if isinstance(value, tuple):
            return {"items": [self._field(f"{path}/{k}", item) for k, item in enumerate(value)]}
        if isinstance(value, float) and math.isinf(value):
            return {"open": "inf" if value > 0 else "-inf"}
        if not (value is None or isinstance(value, str | bool | int | float)):
            raise BadPlan(
                f"{path} is a {type(value).__name__}; plans hold tensors, moves, gates, sites, numbers and text"
            )
        return {"value": value}

    def _array(self, path: str, value: Tensor) -> str:
        if value.dtype != torch.float32:
            raise BadPlan(
                f"{path} is {value.dtype}, but plans keep float32: rounding it would change the answers; cast it"
            )
        if id(value) not in self._names:
            self._names[id(value)] = path
            self._kept.append(value)
            self.arrays[path] = value.detach().cpu().numpy()
        return self._names[id(value)]


class PartReader:
    """arrays: as `PartWriter` left them."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        self._tensors: dict[str, Tensor] = {}
        self._shared: dict[str, Gate | Network] = {}

    def part(self, header: Mapping[str, Any], shelf: str = "move") -> "Move | Gate | Network":
        """The part of one header. Raises KeyError, TypeError or ValueError when they do not belong together, and the
        part's own error for values that make none."""
        values = {name: self._field(held) for name, held in header["fields"].items()}
        if shelf == NETWORK:
            return Network(**values)
        return (GATES if shelf == "gate" else MOVES)[header["name"]](**values)

    def _field(self, held: Mapping[str, Any]) -> Any:
        ((kind, value),) = held.items()
        read: dict[str, Callable[[Any], Any]] = {
            "array": self._tensor,
            "move": self.part,
            "gate": lambda header: self._once("gate", header),
            NETWORK: lambda header: self._once(NETWORK, header),
            "site": Site.parse,
            "items": lambda items: tuple(self._field(item) for item in items),
            "open": float,
            "value": lambda plain: plain,
        }
        return read[kind](value)

    def _once(self, kind: str, header: Mapping[str, Any]) -> "Gate | Network":
        """Equal headers name the same arrays, so they are one object: one reading and one decision serve all."""
        key = f"{kind}:{header!r}"
        if key not in self._shared:
            self._shared[key] = self.part(header, kind)  # type: ignore[assignment]
        return self._shared[key]

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            self._tensors[name] = torch.from_numpy(np.array(self._arrays[name], dtype=np.float32))
        return self._tensors[name]


def _name(part: "Move | Gate | Network") -> str:
    if isinstance(part, Network):
        return NETWORK
    return MOVES.name_of(type(part)) if isinstance(part, Move) else GATES.name_of(type(part))
