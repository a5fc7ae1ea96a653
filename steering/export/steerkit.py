"""steerkit: `Probe.load(FILE)`. One unit direction at one block, with the strength in `auto_alpha`.

Source: steerkit 0.3, steerkit/probe.py: tensors `direction.<method>`; texts `layer`, `hook_site`, `model_id`,
`auto_alpha`, ... in the metadata. Written are plans of one block; read are those at `resid_post`.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.steering.errors import BadFile, CannotExport
from trimtab.steering.export._additions import additions_everywhere, fingerprint_of, plan_everywhere, vector_of
from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.whole import written_whole

METHOD, HOOK_SITE, SCHEMA = "diff_of_means", "resid_post", "3"
UNCALIBRATED = 2.0  # strength of `Probe.steer` where `auto_alpha` is empty


class Steerkit(Format):
    """Probes of steerkit."""

    suffix = ".probe.safetensors"
    tool = "steerkit"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        vectors = additions_everywhere(plan, self.tool)
        if len(vectors) != 1:
            raise CannotExport(f"a steerkit probe has one block; this plan adds at {len(vectors)}: {sorted(vectors)}")
        ((block, vector),) = vectors.items()
        n_layers = fingerprint_of(plan, self.tool).n_layers
        metadata = _metadata(block, n_layers, about) | {"auto_alpha": repr(float(vector.norm()))}
        with written_whole(path) as part:
            save_file({f"direction.{METHOD}": (vector / vector.norm()).contiguous()}, part, metadata=metadata)

    def read(self, path: Path) -> SteeringPlan:
        tensors, metadata = _read(path)
        if metadata.get("hook_site") != HOOK_SITE:
            raise BadFile(f"{path} acts at '{metadata.get('hook_site')}'; only '{HOOK_SITE}' can be read")
        method = metadata.get("default_method", "")
        try:
            direction = tensors[f"direction.{method}"]
            block, alpha = int(metadata["layer"]), float(metadata.get("auto_alpha") or UNCALIBRATED)
        except (KeyError, ValueError) as error:
            raise BadFile(f"{path} lacks its direction, layer or strength: {error!r}") from error
        return plan_everywhere({block: vector_of(direction * alpha, f"{path}: {method}")})


def _metadata(block: int, n_layers: int, about: About) -> dict[str, str]:
    return {
        "schema_version": SCHEMA,
        "layer": str(block),
        "n_total_layers": str(n_layers),
        "normalized_depth": f"{block / max(1, n_layers - 1):.6f}",
        "model_id": about.model_id,
        "hook_site": HOOK_SITE,
        "hook_name": f"blocks.{block}.hook_{HOOK_SITE}",
        "default_method": METHOD,
        "bias_json": "{}",
        "metrics_json": "{}",
        "extras_json": json.dumps({"name": about.name, "description": about.description}),
    }


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadFile(f"{path} is not a safetensors file: {error}") from error
