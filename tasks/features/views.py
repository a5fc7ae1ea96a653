"""What people and scripts ask of a feature set, as plain JSON: its list, one feature, and a plan from one."""

import re
from typing import Any

from trimtab.steering.features.feature_set import KIND, FeatureSet
from trimtab.steering.features.hierarchy import branches
from trimtab.store import Artifact
from trimtab.tasks.errors import RecipeError, did_you_mean
from trimtab.tasks.home import Home

SORTS = ("size", "firing", "peak", "label", "number")
Json = dict[str, Any]


def split_ref(ref: str) -> tuple[str, int | None]:
    """`concepts@2:17` as (`concepts@2`, 17); no number when there is none."""
    match = re.fullmatch(r"([^:]+):(\d+)", ref)
    return (match[1], int(match[2])) if match else (ref, None)


def pinned(artifact: Artifact, number: int | None) -> str:
    """The version, with the feature's number when there is one: what `split_ref` takes apart."""
    return artifact.ref if number is None else f"{artifact.ref}:{number}"


def feature_set(home: Home, ref: str) -> tuple[Artifact, FeatureSet]:
    """A published set. Raises StoreError, RecipeError when the version is something else."""
    artifact = home.catalog.get(ref)
    if artifact.kind != KIND:
        raise RecipeError(
            f"{artifact.ref} is a {artifact.kind}, not a feature set; `trimtab ls --kind {KIND}` lists them"
        )
    return artifact, FeatureSet.unpack(artifact)


def feature_rows(home: Home, ref: str, sort: str = "size", find: str | None = None) -> list[Json]:
    """One row a feature. find: only those whose label, tokens or concepts hold this text. Raises RecipeError."""
    if sort not in SORTS:
        raise RecipeError(f"--sort {sort}: unknown{did_you_mean(sort, SORTS)}")
    _, features = feature_set(home, ref)
    rows = [_row(reading, _detected(features, reading.number)) for reading in features.readings]
    if find is not None:
        rows = [row for row in rows if find.lower() in _searched(row)]
    plain = sort in ("label", "number")
    return sorted(rows, key=lambda row: row[sort] if plain else -row[sort])


def feature_details(home: Home, ref: str, number: int) -> Json:
    """Everything that was read off one feature, its concepts and its place in the hierarchy. Raises SteeringError."""
    artifact, features = feature_set(home, ref)
    features.check(number)
    reading = features.readings[number].to_json() if features.readings else {"number": number}
    concepts = _detected(features, number)
    parents = [b.parent for b in _first_branches(features) if number in b.children]
    return {"ref": artifact.ref, "site": str(features.site), **reading, "concepts": concepts, "parents": parents}


def tree_of(features: FeatureSet) -> list[list[Json]]:
    """Per level, its parents with children (numbers of the level below), weights and shared neurons."""
    below, levels = features.features, []
    for level in features.levels:
        levels.append([vars(branch) for branch in branches(level, below)])
        below = level.features
    return levels


def _first_branches(features: FeatureSet):
    return branches(features.levels[0], features.features) if features.levels else ()


def _detected(features: FeatureSet, number: int) -> list[Json]:
    """The concepts whose best feature this is."""
    return [concept for concept in features.report.get("concepts", []) if concept["feature"] == number]


def _searched(row: Json) -> str:
    return " ".join([row["label"], *row["tokens"], *row["promotes"], *row["detects"]]).lower()


def _row(reading: Any, concepts: list[Json]) -> Json:
    return {
        "number": reading.number,
        "label": reading.label,
        "size": reading.size,
        "firing": reading.firing,
        "peak": reading.peak,
        "tokens": [shown.token.strip() for shown in reading.tops[:6]],
        "promotes": [token.strip() for token, _ in reading.promoted[:5]],
        "detects": [concept["concept"] for concept in concepts],
    }
