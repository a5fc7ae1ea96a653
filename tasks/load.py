"""trimtab.load: a published version by its name, as what it is."""

import os
from typing import Any, TypeVar, overload

from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.features.feature_set import FeatureSet
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.store import Artifact
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.registry.trust import require_trusted
from trimtab.tasks.reporting.drawing.verdict import read_verdict

T = TypeVar("T")


@overload
def load(name: str, home: str | os.PathLike[str] | None = None) -> Any: ...
@overload
def load(name: str, home: str | os.PathLike[str] | None = None, *, expect: type[T]) -> T: ...
def load(name: str, home: str | os.PathLike[str] | None = None, *, expect: type[Any] | None = None) -> Any:
    """What was published under a name: "cheerful" (the newest), "cheerful@3", or an alias such as "cheerful@prod".

    A plan comes as a SteeringPlan, a feature set as a FeatureSet, a head ranking as a Ranking, a verdict as a Verdict,
    a capture as an ActivationStore; other kinds as the Artifact itself. home: a folder or URL, by default
    $TRIMTAB_HOME, else `.trimtab` here. expect: the type it must have, such as SteeringPlan; type checkers know it.

    Warns (DeprecatedVersion) when the version was deprecated. Raises StoreError, naming the nearest names that there
    are, and RecipeError when it is something else than expected.
    """
    place = Home.at(home)
    artifact = place.catalog.get(name)
    require_trusted(place, artifact)
    product = _product(place, artifact)
    if expect is not None and not isinstance(product, expect):
        raise RecipeError(
            f"{artifact.ref} is a {artifact.kind}, which loads as {type(product).__name__}, not {expect.__name__}"
        )
    return product


def _product(place: Home, artifact: Artifact) -> Any:
    match artifact.kind:
        case "plan" | "candidates":
            return SteeringPlan.unpack(artifact)
        case "features":
            return FeatureSet.unpack(artifact)
        case "ranking":
            return Ranking.unpack(artifact)
        case "verdict":
            return read_verdict(artifact.header["verdict"])
        case "capture":
            return place.captures.open(artifact)
        case _:
            return artifact
