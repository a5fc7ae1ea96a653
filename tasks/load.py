"""trimtab.load: a published version by its name, as what it is."""

import os
from typing import Any

from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.features.feature_set import FeatureSet
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.tasks.home import Home
from trimtab.tasks.reporting.drawing.verdict import read_verdict


def load(name: str, home: str | os.PathLike[str] | None = None) -> Any:
    """What was published under a name: "cheerful" (the newest), "cheerful@3", or an alias such as "cheerful@prod".

    A plan comes as a SteeringPlan, a feature set as a FeatureSet, a head ranking as a Ranking, a verdict as a Verdict,
    a capture as an ActivationStore; other kinds as the Artifact itself. home: a folder or URL, by default
    $TRIMTAB_HOME, else `.trimtab` here. Raises StoreError, naming the nearest names that there are.
    """
    place = Home.at(home)
    artifact = place.catalog.get(name)
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
