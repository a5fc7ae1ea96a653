"""Ranking: the values that a localiser gives to units (heads, MLPs, ...), with their meaning. Packs into arrays and a
header, like a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trimtab.steering.errors import BadRanking
from trimtab.steering.model.site import Site
from trimtab.steering.plans.pack import HasArrays, Packed

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Ranking:
    """One number per unit.

    method: the localiser's name. meaning: what a value says, with its sign and unit, in plain words. units: `z.7.3`,
    `mlp_out.4`, ... values: `[n]` float32. low, high: `[n]` 95% intervals, or None. labels: one word per unit, or None.
    extra: further arrays by name; `per_question` is `[questions n]`, per seed arrays are `[seeds n]`. questions: how
    many were asked. settings: the localiser's fields, JSON.
    """

    method: str
    meaning: str
    units: tuple[Site, ...]
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    labels: tuple[str, ...] | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    questions: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("values", "low", "high", "labels"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.units):
                raise BadRanking(f"ranking by {self.method}: {len(self.units)} units, but {len(column)} {name}")
        if len(set(self.units)) != len(self.units):
            raise BadRanking(f"ranking by {self.method}: some of its {len(self.units)} units stand there twice")

    def top(self, k: int, point: str | None = "z", magnitude: bool = False) -> tuple[Site, ...]:
        """The k units with the largest values, best first. point: only units of this point (None: all). magnitude:
        by absolute value. Units without a value (nan) are left out. Ties keep the units' order."""
        indices = [
            i for i, unit in enumerate(self.units) if point in (None, unit.point) and np.isfinite(self.values[i])
        ]
        key = np.abs(self.values) if magnitude else self.values
        return tuple(self.units[i] for i in sorted(indices, key=lambda i: -float(key[i]))[:k])

    def value(self, unit: Site) -> float:
        """The value of one unit. Raises BadRanking when it was not ranked."""
        if unit not in self.units:
            raise BadRanking(f"{unit} is not among the {len(self.units)} units ranked by {self.method}")
        return float(self.values[self.units.index(unit)])

    def only(self, point: str) -> "Ranking":
        """The ranking of the units of one point only; `extra` arrays whose last axis is the units are reduced too."""
        indices = np.array([i for i, unit in enumerate(self.units) if unit.point == point], dtype=int)
        n = len(self.units)
        cut = {name: a[..., indices] if a.ndim and a.shape[-1] == n else a for name, a in self.extra.items()}
        return replace(
            self,
            units=tuple(self.units[i] for i in indices),
            values=self.values[indices],
            low=None if self.low is None else self.low[indices],
            high=None if self.high is None else self.high[indices],
            labels=None if self.labels is None else tuple(self.labels[i] for i in indices),
            extra=cut,
        )

    def grid(self, name: str | None = None) -> np.ndarray:
        """Heads as `[n_layers n_heads]`: the values, or an `extra` array of one number per unit; nan where unranked."""
        numbers = self.values if name is None else self.extra[name]
        heads = [(unit.block or 0, unit.head, i) for i, unit in enumerate(self.units) if unit.head is not None]
        if not heads:
            raise BadRanking(f"ranking by {self.method} has no heads, so there is no grid of blocks and heads")
        grid = np.full((1 + max(b for b, _, _ in heads), 1 + max(h for _, h, _ in heads)), np.nan, np.float32)
        for block, head, i in heads:
            grid[block, head] = numbers[i]
        return grid

    def pack(self) -> Packed:
        """Arrays and a JSON header: what a file or the catalog keeps."""
        arrays = {"values": self.values, "low": self.low, "high": self.high}
        packed = {name: np.asarray(a, np.float32) for name, a in arrays.items() if a is not None}
        packed |= {f"extra/{name}": np.asarray(a, np.float32) for name, a in self.extra.items()}
        header = {
            "format": FORMAT,
            "kind": "ranking",
            "method": self.method,
            "meaning": self.meaning,
            "units": [str(unit) for unit in self.units],
            "labels": None if self.labels is None else list(self.labels),
            "questions": self.questions,
            "settings": dict(self.settings),
        }
        return Packed(packed, header)

    @classmethod
    def unpack(cls, packed: HasArrays) -> "Ranking":
        """From anything with `.arrays` and `.header`. Raises BadRanking when it is not a ranking of this format."""
        arrays, header = packed.arrays, packed.header
        if header.get("kind") != "ranking" or header.get("format") != FORMAT:
            raise BadRanking(
                f"this is not a ranking of format {FORMAT}: kind {header.get('kind')!r}, format "
                f"{header.get('format')!r}; a higher format was written by a newer trimtab"
            )
        labels = header["labels"]
        return cls(
            method=header["method"],
            meaning=header["meaning"],
            units=tuple(Site.parse(unit) for unit in header["units"]),
            values=arrays["values"],
            low=arrays.get("low"),
            high=arrays.get("high"),
            labels=None if labels is None else tuple(labels),
            extra={name[len("extra/") :]: a for name, a in arrays.items() if name.startswith("extra/")},
            questions=header["questions"],
            settings=header["settings"],
        )


def overlap(first: Sequence[Site], second: Sequence[Site]) -> float:
    """Share of `first` that is in `second`: top-k recall when both have k units."""
    return len(set(first) & set(second)) / len(first)
