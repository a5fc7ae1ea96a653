"""Two versions beside each other: recipe, data files, libraries, numbers with intervals, and vectors by site."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.steering.moves.base import AffineMap
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.statistics import Interval, separate_difference
from trimtab.store import Artifact
from trimtab.tasks.home import Home

Json = dict[str, Any]
PLANS = ("plan", "candidates")


def diff(home: Home, one: str, other: str) -> Json:
    """refs, and one list each of what differs: recipe, data, libraries, numbers; and sites, where both are plans.

    Raises StoreError for an unknown version.
    """
    pair = (home.catalog.get(one), home.catalog.get(other))
    first, second = pair
    recipes = [dict(_leaves(artifact.recipe)) for artifact in pair]
    files = [_files(artifact.recipe) for artifact in pair]
    return {
        "refs": [first.ref, second.ref],
        "recipe": list(_differences(*recipes)),
        "data": list(_differences(*files)),
        "libraries": list(_differences(first.libraries, second.libraries)),
        "numbers": list(_numbers(first, second)),
        "sites": list(_sites(first, second)) if first.kind in PLANS and second.kind in PLANS else [],
    }


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Json]:
    for key in dict.fromkeys([*first, *second]):
        if first.get(key) != second.get(key):
            yield {"key": key, "first": first.get(key), "second": second.get(key)}


def _leaves(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a recipe with their values; data files are left to `_files`."""
    if isinstance(value, Mapping):
        if set(value) != {"path", "sha256"}:
            for name, inner in value.items():
                yield from _leaves(inner, f"{before}{name}.")
    elif before:
        yield before.rstrip("."), value


def _files(value: Any, before: str = "") -> dict[str, str]:
    """Dotted keys of data files with their names and the beginnings of their digests."""
    if not isinstance(value, Mapping):
        return {}
    if set(value) == {"path", "sha256"}:
        return {before.rstrip("."): f"{str(value['path']).rpartition('/')[2]} (sha256 {str(value['sha256'])[:12]})"}
    return {key: file for name, inner in value.items() for key, file in _files(inner, f"{before}{name}.").items()}


def _numbers(first: Artifact, second: Artifact) -> Iterator[Json]:
    """Metrics that differ; the change of two intervals is that of estimates taken on different texts."""
    metrics = [one.metrics if isinstance(one.metrics, dict) else {} for one in (first, second)]
    for row in _differences(*metrics):
        change: Any = None
        intervals = [_interval(row[side]) for side in ("first", "second")]
        if intervals[0] is not None and intervals[1] is not None:
            change = vars(separate_difference(intervals[1], intervals[0]))
        elif all(
            isinstance(row[side], float | int) and not isinstance(row[side], bool) for side in ("first", "second")
        ):
            change = row["second"] - row["first"]
        yield {**row, "change": change}


def _interval(value: Any) -> Interval | None:
    try:
        return Interval(**value)
    except TypeError:
        return None


def _sites(first: Artifact, second: Artifact) -> Iterator[Json]:
    """Every site of either plan: what acts there, the cosine of both, and the ratio of their sizes."""
    steps = [{str(step.site): step for step in SteeringPlan.unpack(one).interventions} for one in (first, second)]
    for site in dict.fromkeys([*steps[0], *steps[1]]):
        pair = [one.get(site) for one in steps]
        names = [None if step is None else f"{type(step.move).__name__} x {step.strength:.4g}" for step in pair]
        cosine, ratio = _compared(*pair)
        yield {"site": site, "first": names[0], "second": names[1], "cosine": cosine, "ratio": ratio}


def _compared(first: Intervention | None, second: Intervention | None) -> tuple[float | None, float | None]:
    """(cosine, size of the second over that of the first); None where it cannot be said.

    Vectors: the angle between them, at their strengths. Projections and other low-rank maps: the root mean squared
    cosine of the principal angles between the subspaces they act in, which has no size.
    """
    if first is None or second is None:
        return None, None
    maps = first.move.affine(), second.move.affine()
    if maps[0] is None or maps[1] is None:
        return None, None
    if not (maps[0].constant and maps[1].constant):
        return _overlap(maps[0], maps[1]), None
    one, other = maps[0].bias.double() * first.strength, maps[1].bias.double() * second.strength
    if one.shape != other.shape or not one.norm() or not other.norm():
        return None, None
    return float(one @ other / one.norm() / other.norm()), float(other.norm() / one.norm())


def _overlap(first: AffineMap, second: AffineMap) -> float | None:
    if first.left is None or second.left is None or first.left.shape[0] != second.left.shape[0]:
        return None
    bases = [_basis(one) for one in (first.left, second.left)]
    return float((bases[0].T @ bases[1]).square().sum().div(min(base.shape[1] for base in bases)).sqrt())


def _basis(columns: Tensor) -> Tensor:
    """`[d k]`, orthonormal, of the space that the columns `[d k]` span."""
    return torch.linalg.qr(columns.double())[0]
