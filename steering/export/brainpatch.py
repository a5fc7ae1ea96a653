"""brainpatch: a `.brainpatch` archive (`brainpatch validate FILE`).

Source: brainpatch 1.2, brainpatch/patch/format.py and loader.py: a ZIP of `manifest.json`, `vectors.safetensors` and
`checksums.json`. Layers count from 0 and name the output of the block; injection sites "all", "prompt" and
"continuation" are the spans all, prompt and generated. (Its own export to llama.cpp adds one to the layer, and so
steers one block late; this file goes to brainpatch itself.)
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trimtab.steering.errors import BadFile, CannotExport
from trimtab.steering.export._additions import Additions, additions, fingerprint_of, plan_of, vector_of
from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.whole import written_whole

SITES = {"all": "all", "prompt": "prompt", "generated": "continuation"}
SPANS = {site: span for span, site in SITES.items()}
MEMBERS = ("checksums.json", "manifest.json", "vectors.safetensors")
LARGEST_MEMBER = 256 * 2**20  # bytes, unpacked; brainpatch's own limit
FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the same plan is the same file, byte for byte
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
UNMEASURED = "Steering vector exported by trimtab. Its price and verdict are in the catalog it came from."


class Brainpatch(Format):
    """Patches of brainpatch."""

    suffix = ".brainpatch"
    tool = "brainpatch"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        vectors = additions(plan, self.tool, tuple(SITES))
        manifest = _manifest(plan, vectors, about)
        tensors = {_key(place): vector.contiguous() for place, vector in vectors.items()}
        files = {
            "manifest.json": json.dumps(manifest, indent=2, sort_keys=True).encode(),
            "vectors.safetensors": save_tensors(tensors, metadata={"format": "brainpatch-vectors-v1"}),
        }
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        _zip(path, files | {"checksums.json": json.dumps(sums, indent=2, sort_keys=True).encode()})

    def read(self, path: Path) -> SteeringPlan:
        files = _unzip(path)
        try:
            manifest = json.loads(files["manifest.json"])
            tensors = load_tensors(files["vectors.safetensors"])
            return plan_of(_vectors(manifest, tensors, path))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadFile(f"{path}: manifest and vectors are not a patch: {error!r}") from error
        except Exception as error:  # safetensors raises an error of its own that has no public base
            raise BadFile(f"{path}: {error}") from error


def _key(place: tuple[int, str]) -> str:
    return f"block_{place[0]}_{place[1]}"


def _manifest(plan: SteeringPlan, vectors: Additions, about: About) -> dict[str, Any]:
    if not NAME.fullmatch(about.name):
        raise CannotExport(f"brainpatch wants a name of lower-case letters, digits, '.', '_', '-'; got '{about.name}'")
    model = fingerprint_of(plan, Brainpatch.tool)
    steps = [
        {
            "layer": block,
            "hook": "residual_post",
            "vector": _key((block, span)),
            "coefficient": 1.0,
            "site": SITES[span],
        }
        for block, span in sorted(vectors)
    ]
    return {
        "format_version": "1.0",
        "name": about.name,
        "description": about.description or UNMEASURED,
        "base_model": {
            "model_id": about.model_id or model.model_type,
            "architecture": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model.model_type, ""),  # compared with the class
            "hidden_size": model.d_model,
            "num_layers": model.n_layers,
            "revision": None,
            "torch_dtype": None,
        },
        "interventions": steps,
        "schedule": None,
        "evidence_level": "none",
        "evaluation": {},
        "compatibility": {},
        "provenance": {},
        "max_abs_strength": 8.0,
        "default_strength": 1.0,
    }


def _step(block: int, span: str) -> dict[str, Any]:
    place = {"layer": block, "hook": "residual_post", "site": SITES[span]}
    return place | {"vector": _key((block, span)), "coefficient": 1.0}


def _vectors(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Additions:
    if manifest.get("schedule"):
        raise BadFile(f"{path} has a schedule over tokens; only fixed strengths can be read")
    strength = float(manifest.get("default_strength", 1.0))
    total: Additions = {}
    for step in manifest["interventions"]:
        if step.get("hook", "residual_post") != "residual_post":
            raise BadFile(f"{path} acts at '{step['hook']}'; only residual_post can be read")
        place = (int(step["layer"]), SPANS[step.get("site", "all")])
        vector = vector_of(tensors[step["vector"]].float(), f"{path}: {step['vector']}")
        scaled = vector * float(step.get("coefficient", 1.0)) * strength
        total[place] = total[place] + scaled if place in total else scaled
    return total


def _zip(path: Path, files: Mapping[str, bytes]) -> None:
    with written_whole(path) as part, zipfile.ZipFile(part, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=FIXED_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])


def _unzip(path: Path) -> dict[str, bytes]:
    """The members by exact name, with their checksums compared. Nothing is unpacked to a disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            large = [entry.filename for entry in archive.infolist() if entry.file_size > LARGEST_MEMBER]
            if large:
                raise BadFile(f"{path}: {', '.join(large)} unpacks to more than {LARGEST_MEMBER:,} bytes")
            files = {name: archive.read(name) for name in MEMBERS}
        sums = json.loads(files["checksums.json"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BadFile(f"{path} is not a brainpatch archive: {error}") from error
    for name, content in files.items():
        if name != "checksums.json" and sums.get(name) != hashlib.sha256(content).hexdigest():
            raise BadFile(f"{path}: {name} is not what its checksum says; the file was damaged or changed")
    return files
