"""The feature browser's page: one HTML file that opens anywhere, offline."""

from pathlib import Path
from typing import Any

from prefect import task

from trimtab.steering.features.feature_set import FeatureSet
from trimtab.store import Artifact
from trimtab.tasks.features.views import feature_set, tree_of
from trimtab.tasks.home import Home
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.features_page import features_page
from trimtab.tasks.reporting.seal import write_page


@task(name="feature browser")
def features_report_task(home: str, features: Reference) -> str:
    """See `write_features_page`."""
    return str(write_features_page(Home.at(home), features.ref))


def write_features_page(home: Home, ref: str, path: Path | None = None) -> Path:
    """Write `reports/<name>@<version>.features.html` (or `path`) and return it. Raises StoreError, RecipeError."""
    artifact, features = feature_set(home, ref)
    headers = [home.catalog.get(parent.ref).header for parent in artifact.parents]
    curve: list[Any] = next((header["curve"] for header in headers if "curve" in header), [])
    target = path or home.reports / f"{artifact.ref}.features.html"
    return write_page(features_page(about(artifact, features), readings(features), tree_of(features), curve), target)


def about(artifact: Artifact, features: FeatureSet) -> dict[str, Any]:
    """What the head of the page says."""
    return {
        "ref": artifact.ref,
        "digest": artifact.digest,
        "site": str(features.site),
        "parents": [parent.ref for parent in artifact.parents],
        "metrics": artifact.metrics,
        "settings": dict(features.settings),
        "concepts": features.report.get("concepts", []),
        "losses": features.report.get("losses", []),
        "rows": features.report.get("rows"),
    }


def readings(features: FeatureSet) -> list[dict[str, Any]]:
    """One entry per feature, as its FeatureReading."""
    return [reading.to_json() for reading in features.readings]
