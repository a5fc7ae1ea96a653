"""Pack: a plan as float32 arrays and a JSON header, by walking dataclass fields. No pickle anywhere.

The same (arrays, header) goes to one safetensors file (`save_plan`/`load_plan`) or to the catalog.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from trimtab.steering.errors import BadPlan
from trimtab.steering.intervention import Intervention
from trimtab.steering.model.anatomy import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves import MOVES
from trimtab.steering.moves.base import Move

FORMAT = 1


class Holding(Protocol):
    """Anything that carries packed arrays and their header: a Packed, or an Artifact of the catalog."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...

    @property
    def header(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Packed:
    """arrays: float32 numpy by name. header: JSON with a format number."""

    arrays: Mapping[str, np.ndarray]
    header: Mapping[str, Any]


def pack_plan(interventions: Sequence[Intervention], model: Fingerprint | None) -> Packed:
    """Walk the fields of every move: tensors to arrays `{number}/{field}`, the rest to the header."""
    arrays: dict[str, np.ndarray] = {}
    steps = [_pack_step(str(k), step, arrays) for k, step in enumerate(interventions)]
    made_on = None if model is None else model.to_json()
    return Packed(arrays, {"format": FORMAT, "kind": "plan", "model": made_on, "interventions": steps})


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
        steps = tuple(_unpack_step(step, arrays) for step in header["interventions"])
        model = None if header["model"] is None else Fingerprint(**header["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPlan(f"the plan's header and arrays do not belong together: {error!r}") from error
    return steps, model


def save_plan(packed: Packed, path: str | Path) -> None:
    """One safetensors file, header in its metadata. Written beside and renamed, so never half-written, and two
    writers of one name leave one of the two whole."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{uuid4().hex}.part")
    # Not ascontiguousarray: it turns a number into an array of one.
    arrays = {name: np.asarray(array, order="C") for name, array in packed.arrays.items()}
    try:
        save_file(arrays, part, metadata={"trimtab": json.dumps(packed.header, sort_keys=True, allow_nan=False)})
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def load_plan(path: str | Path) -> Packed:
    """Read a file of `save_plan`. Raises BadPlan when it is not one."""
    try:
        with safe_open(str(path), framework="np") as file:
            header = json.loads((file.metadata() or {})["trimtab"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BadPlan(f"{path} is not a trimtab plan: {error}") from error
    return Packed(arrays, header)


def _pack_step(prefix: str, step: Intervention, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if not math.isfinite(step.strength):
        raise BadPlan(f"the strength at {step.site} is {step.strength}; a plan that is kept needs a finite one")
    return {
        "site": str(step.site),
        "span": str(step.span),
        "strength": float(step.strength),
        "source": None if step.source is None else str(step.source),
        "move": _pack_move(prefix, step.move, arrays),
    }


def _pack_move(prefix: str, move: Move, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    held = {f.name: _pack_field(f"{prefix}/{f.name}", getattr(move, f.name), arrays) for f in fields(move)}  # type: ignore[arg-type]
    return {"name": MOVES.name_of(type(move)), "fields": held}


def _pack_field(path: str, value: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """One of `array`, `move`, `open` (an infinity, which JSON does not have: Clamp's open ends) and `value`."""
    if isinstance(value, Tensor):
        if value.dtype != torch.float32:
            raise BadPlan(
                f"{path} is {value.dtype}, but plans keep float32: rounding it would change the answers; cast it"
            )
        arrays[path] = value.detach().cpu().numpy()
        return {"array": path}
    if isinstance(value, Move):
        return {"move": _pack_move(path, value, arrays)}
    if isinstance(value, float) and math.isinf(value):
        return {"open": "inf" if value > 0 else "-inf"}
    if not (value is None or isinstance(value, str | bool | int | float)):
        raise BadPlan(f"{path} is a {type(value).__name__}; moves hold tensors, moves, numbers and text")
    return {"value": value}


def _unpack_step(step: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Intervention:
    source = None if step["source"] is None else Site.parse(step["source"])
    move = _unpack_move(step["move"], arrays)
    return Intervention(Site.parse(step["site"]), move, Span.parse(step["span"]), float(step["strength"]), source)


def _unpack_move(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Move:
    values = {name: _unpack_field(held, arrays) for name, held in header["fields"].items()}
    return MOVES[header["name"]](**values)


def _unpack_field(held: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    if "array" in held:
        return torch.from_numpy(np.array(arrays[held["array"]], dtype=np.float32))
    if "move" in held:
        return _unpack_move(held["move"], arrays)
    return float(held["open"]) if "open" in held else held["value"]
