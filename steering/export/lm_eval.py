"""lm_eval: `lm_eval --model steered --model_args pretrained=ID,steer_path=FILE.pt`.

Source: lm-evaluation-harness 0.4.13, lm_eval/models/hf_steered.py: `{module path from the base model:
{"steering_vector", "steering_coefficient", "action": "add", ...}}`; added to every position of the module's output.
The harness itself loads the file with `weights_only=False`; ours holds tensors and numbers only. Its action "clamp"
sets the coordinate along a direction, which is `Clamp` with both bounds at the coefficient.
"""

from pathlib import Path
from typing import Any

import torch

from trimtab.steering.errors import BadFile
from trimtab.steering.export._additions import additions_everywhere, fingerprint_of, vector_of
from trimtab.steering.export._torch_file import read_tensors, write_tensors
from trimtab.steering.export.base import About, Format
from trimtab.steering.model.families import FAMILIES
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.base import Move
from trimtab.steering.moves.clamp import Clamp
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan


class LmEval(Format):
    """Steering files of the LM evaluation harness."""

    suffix = ".pt"
    tool = "lm-eval"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        blocks = _blocks_path(fingerprint_of(plan, self.tool).model_type)
        vectors = additions_everywhere(plan, self.tool)
        write_tensors(path, {f"{blocks}.{block}": _entry(vector) for block, vector in sorted(vectors.items())})

    def read(self, path: Path) -> SteeringPlan:
        steps = [(_block(key, path), _move(entry, f"{path}: {key}")) for key, entry in read_tensors(path).items()]
        if not steps:
            raise BadFile(f"{path} steers nothing: it has no entries")
        steps.sort(key=lambda step: step[0])
        return SteeringPlan(tuple(Intervention(Site("resid_post", block), move) for block, move in steps))


def _entry(vector: torch.Tensor) -> dict[str, Any]:
    return {"steering_vector": vector, "steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None}


def _blocks_path(model_type: str) -> str:
    """From the base model to its list of blocks: `model.layers` is `layers` there."""
    return FAMILIES[model_type].blocks.partition(".")[2]


def _block(key: str, path: Path) -> int:
    blocks, _, number = str(key).rpartition(".")
    if not number.isdecimal() or blocks not in {_blocks_path(name) for name in FAMILIES}:
        raise BadFile(f"{path}: '{key}' is no block of a known family (for example layers.12): only blocks can be read")
    return int(number)


def _move(entry: Any, where: str) -> Move:
    if not isinstance(entry, dict) or "steering_vector" not in entry:
        raise BadFile(f"{where} has no steering_vector")
    if entry.get("head_index") is not None or entry.get("bias") is not None:
        raise BadFile(f"{where} steers one head or subtracts a bias, which a plan at a block's output cannot say")
    vector, number = vector_of(entry["steering_vector"], where), float(entry.get("steering_coefficient", 1.0))
    if entry.get("action") == "add":
        return Add(vector * number)
    if entry.get("action") == "clamp":
        return Clamp(vector / vector.norm(), number, number)
    raise BadFile(f"{where}: action '{entry.get('action')}' is neither add nor clamp")
