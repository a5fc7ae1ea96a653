"""Pack: a plan as float32 arrays and a JSON header, by walking dataclass fields. No pickle anywhere.

The same (arrays, header) goes to one safetensors file (`save_plan`/`load_plan`) or to the catalog.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from trimtab.steering.errors import BadPlan
from trimtab.steering.model.anatomy import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.base import Move
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.parts import PartReader, PartWriter

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
    writer = PartWriter()
    steps = [_pack_step(str(k), step, writer) for k, step in enumerate(interventions)]
    made_on = None if model is None else model.to_json()
    return Packed(writer.arrays, {"format": FORMAT, "kind": "plan", "model": made_on, "interventions": steps})


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


def _pack_step(prefix: str, step: Intervention, writer: PartWriter) -> dict[str, Any]:
    if not math.isfinite(step.strength):
        raise BadPlan(f"the strength at {step.site} is {step.strength}; a plan that is kept needs a finite one")
    return {
        "site": str(step.site),
        "span": str(step.span),
        "strength": float(step.strength),
        "move": writer.part(prefix, step.move),
    }


def _unpack_step(step: Mapping[str, Any], reader: PartReader) -> Intervention:
    move = reader.part(step["move"])
    if not isinstance(move, Move):
        raise BadPlan(f"the plan's header puts a {type(move).__name__} where a move belongs")
    return Intervention(Site.parse(step["site"]), move, Span.parse(step["span"]), float(step["strength"]))
