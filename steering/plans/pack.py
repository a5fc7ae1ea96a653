"""Pack: a plan as float32 arrays and a JSON header, by walking dataclass fields. No pickle anywhere.

The same (arrays, header) goes to one safetensors file (`Packed.save`) or to the catalog. A tensor or a gate that
several interventions share is written once, and shared again when it is read back.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from trimtab.steering.errors import BadPlan
from trimtab.steering.gates import GATES, Gate
from trimtab.steering.gates.controlled import Network
from trimtab.steering.model.anatomy import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.moves import MOVES, Move
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.whole import written_whole

FORMAT = 1
NETWORK = "network"
PlanPart = Move | Gate | Network


class HasArrays(Protocol):
    """Anything that carries packed arrays and their header: a Packed, or an Artifact of the catalog."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...

    @property
    def header(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Packed:
    """arrays: numpy by name (a plan's are float32). header: JSON with a format number."""

    arrays: Mapping[str, np.ndarray]
    header: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """One safetensors file with the header in its metadata. It is never half-written."""
        # Not ascontiguousarray: it turns a number into an array of one.
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        header = json.dumps(self.header, sort_keys=True, allow_nan=False)
        with written_whole(Path(path)) as part:
            save_file(arrays, part, metadata={"trimtab": header})

    @classmethod
    def load(cls, path: str | Path) -> "Packed":
        """Read a file of `save`. Raises BadPlan when it is not one."""
        try:
            with safe_open(str(path), framework="np") as file:
                header = json.loads((file.metadata() or {})["trimtab"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise BadPlan(f"{path} is not a file of trimtab: {error}") from error
        return cls(arrays, header)


def pack_plan(interventions: Sequence[Intervention], model: Fingerprint | None) -> Packed:
    """Walk the fields of every move: tensors to arrays `{number}/{field}`, the rest to the header."""
    writer = PartWriter()
    steps = [_pack_step(str(k), step, writer) for k, step in enumerate(interventions)]
    fingerprint = None if model is None else model.to_json()
    return Packed(writer.arrays, {"format": FORMAT, "kind": "plan", "model": fingerprint, "interventions": steps})


def unpack_interventions(
    arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]
) -> tuple[tuple[Intervention, ...], Fingerprint | None]:
    """The reverse. Raises BadPlan when header or arrays are not a plan this version can read."""
    if header.get("kind") != "plan" or header.get("format") != FORMAT:
        raise BadPlan(
            f"this is not a plan of format {FORMAT}: kind {header.get('kind')!r}, format {header.get('format')!r}; "
            f"a higher format was written by a newer trimtab"
        )
    try:
        reader = PartReader(arrays)
        steps = tuple(_unpack_step(step, reader) for step in header["interventions"])
        model = None if header["model"] is None else Fingerprint(**header["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPlan(f"the plan's header and arrays do not belong together: {error!r}") from error
    return steps, model


def _pack_step(prefix: str, step: Intervention, writer: "PartWriter") -> dict[str, Any]:
    if not math.isfinite(step.strength):
        raise BadPlan(f"the strength at {step.site} is {step.strength}; a plan that is packed needs a finite one")
    return {
        "site": str(step.site),
        "span": str(step.span),
        "strength": float(step.strength),
        "move": writer.part(prefix, step.move),
    }


def _unpack_step(step: Mapping[str, Any], reader: "PartReader") -> Intervention:
    move = reader.part(step["move"])
    if not isinstance(move, Move):
        raise BadPlan(f"the plan's header puts a {type(move).__name__} where a move belongs")
    return Intervention(step["site"], move, step["span"], float(step["strength"]))


class PartWriter:
    """Moves, gates and networks as headers. arrays: their tensors, float32 numpy by name, filled on the way."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._tensors: list[Tensor] = []  # ids stay taken while the writer lives

    def part(self, path: str, part: PlanPart) -> dict[str, Any]:
        """The header of one part; its tensors become arrays `{path}/{field}`. Raises BadPlan for other fields."""
        headers = {f.name: self._field(f"{path}/{f.name}", getattr(part, f.name)) for f in fields(part)}  # type: ignore[arg-type]
        return {"name": _name(part), "fields": headers}

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
                f"{path} is {value.dtype}, but plans hold float32: rounding it would change the answers; cast it"
            )
        if id(value) not in self._names:
            self._names[id(value)] = path
            self._tensors.append(value)
            self.arrays[path] = value.detach().cpu().numpy()
        return self._names[id(value)]


class PartReader:
    """Parts from their headers. arrays: as `PartWriter` left them."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        self._tensors: dict[str, Tensor] = {}
        self._shared: dict[str, PlanPart] = {}

    def part(self, header: Mapping[str, Any], shelf: str = "move") -> PlanPart:
        """The part of one header. Raises KeyError, TypeError or ValueError when they do not belong together, and the
        part's own error for values that make none."""
        values = {name: self._field(field) for name, field in header["fields"].items()}
        if shelf == NETWORK:
            return Network(**values)
        return (GATES if shelf == "gate" else MOVES)[header["name"]](**values)

    def _field(self, field: Mapping[str, Any]) -> Any:
        ((kind, value),) = field.items()
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

    def _once(self, kind: str, header: Mapping[str, Any]) -> PlanPart:
        """Equal headers name the same arrays, so they are one object: one reading and one decision serve all."""
        key = f"{kind}:{header!r}"
        if key not in self._shared:
            self._shared[key] = self.part(header, kind)
        return self._shared[key]

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            self._tensors[name] = torch.from_numpy(np.array(self._arrays[name], dtype=np.float32))
        return self._tensors[name]


def _name(part: PlanPart) -> str:
    if isinstance(part, Network):
        return NETWORK
    return MOVES.name_of(type(part)) if isinstance(part, Move) else GATES.name_of(type(part))
