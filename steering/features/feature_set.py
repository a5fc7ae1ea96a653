"""FeatureSet: the features of one site, with the settings of their fit and their readings. Packs into arrays and a
header, like a plan."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadPlan, SteeringError
from trimtab.steering.features.hierarchy import Level
from trimtab.steering.features.matching import unit_columns
from trimtab.steering.features.reading import FeatureReading
from trimtab.steering.features.snmf import transform
from trimtab.steering.model.anatomy import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.pack import HasArrays, Packed
from trimtab.steering.plans.plan import SteeringPlan

FORMAT = 1
KIND = "features"


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """features: F `[d k]` float32, in units of the rows: a column is what one activation of 1 (the feature's root mean
    square over the fit's rows) adds. settings, report: of the fit, as JSON. model: what the rows were of. readings:
    one per feature, or none. levels: the hierarchy above, from the fine to the coarse."""

    features: Float[Tensor, "d k"]
    site: Site
    settings: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    model: Fingerprint | None = None
    readings: tuple[FeatureReading, ...] = ()
    levels: tuple[Level, ...] = ()

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != torch.float32:
            raise SteeringError(f"features are one float32 matrix [d k], not {list(self.features.shape)}")
        if self.readings and len(self.readings) != len(self):
            raise SteeringError(f"{len(self.readings)} readings for {len(self)} features; give one each, or none")

    def __len__(self) -> int:
        return self.features.shape[1]

    @property
    def labels(self) -> tuple[str, ...]:
        """One per feature; empty text where nothing was read."""
        return tuple(r.label for r in self.readings) if self.readings else ("",) * len(self)

    @property
    def directions(self) -> Float[Tensor, "d k"]:
        """Columns of norm 1."""
        return unit_columns(self.features)

    def check(self, number: int) -> int:
        """The number, when there is such a feature. Raises SteeringError with what there is."""
        if not 0 <= number < len(self):
            raise SteeringError(f"there is no feature {number}: the set at {self.site} has 0 to {len(self) - 1}")
        if not float(self.features[:, number].norm()) > 0:
            raise SteeringError(f"feature {number} is dead (all zeros), so it steers nothing; choose another")
        return number

    def activations(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """G of new rows of this site, never negative."""
        return transform(rows, self.features)

    def plan(self, number: int) -> SteeringPlan:
        """Add one feature at its own site; strength 1 is its size at an activation of 1. Raises
        SteeringError for a number that is not there."""
        k = self.check(number)
        return SteeringPlan((Intervention(self.site, Add(self.features[:, k].clone())),), self.model)

    def pack(self) -> Packed:
        """Arrays and a JSON header. Readings are bytes of JSON among the arrays: a header stays small to list."""
        arrays: dict[str, np.ndarray] = {"features": self.features.cpu().numpy()}
        if self.readings:
            text = json.dumps([r.to_json() for r in self.readings], ensure_ascii=False)
            arrays["readings"] = np.frombuffer(text.encode(), np.uint8)
        for number, level in enumerate(self.levels):
            arrays |= {f"levels/{number}/{name}": array for name, array in level.arrays().items()}
        header = {
            "format": FORMAT,
            "kind": KIND,
            "site": str(self.site),
            "settings": dict(self.settings),
            "report": dict(self.report),
            "model": None if self.model is None else self.model.to_json(),
            "levels": len(self.levels),
        }
        return Packed(arrays, header)

    @classmethod
    def unpack(cls, packed: HasArrays) -> "FeatureSet":
        """From anything with `.arrays` and `.header`. Raises BadPlan when it is not a feature set."""
        arrays, header = packed.arrays, packed.header
        if header.get("kind") != KIND or header.get("format") != FORMAT:
            raise BadPlan(
                f"this is not a feature set of format {FORMAT}: kind {header.get('kind')!r}, format "
                f"{header.get('format')!r}"
            )
        try:
            read = bytes(np.asarray(arrays["readings"])).decode() if "readings" in arrays else "[]"
            return cls(
                torch.from_numpy(np.array(arrays["features"], np.float32)),
                Site.parse(header["site"]),
                dict(header["settings"]),
                dict(header["report"]),
                None if header["model"] is None else Fingerprint(**header["model"]),
                tuple(FeatureReading.from_json(value) for value in json.loads(read)),
                tuple(Level.of_arrays(arrays, f"levels/{k}/") for k in range(header["levels"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadPlan(f"the feature set's header and arrays do not belong together: {error!r}") from error
