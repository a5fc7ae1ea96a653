"""The feature browser's page: one HTML file that opens anywhere, offline."""

from pathlib import Path

from prefect import task

from trimtab.steering.features.feature_set import FeatureSet
from trimtab.store import Artifact
from trimtab.tasks.features.views import feature_set, tree_of
from trimtab.tasks.home import Home
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.features_page import page
from trimtab.tasks.reporting.report import write_page


@task(name="feature browser")
def features_page_task(home: str, features: Reference) -> str:
    """See `write_features_page`."""
    return str(write_features_page(Home.at(home), features.ref))


def write_features_page(home: Home, ref: str, path: Path | None = None) -> Path:
    """Write `reports/<name>@<version>.features.html` (or `path`) and return it. Raises StoreError, RecipeError."""
    artifact, found = feature_set(home, ref)
    curve = [home.catalog.get(p.ref).header for p in artifact.parents]
    points: list = next((header["curve"] for header in curve if "curve" in header), [])
    target = path or home.reports / f"{artifact.ref}.features.html"
    return write_page(page(about(artifact, found), readings(found), tree_of(found), points), target)


def about(artifact: Artifact, found: FeatureSet) -> dict:
    """What the head of the page says."""
    return {
        "ref": artifact.ref,
        "digest": artifact.digest,
        "site": str(found.site),
        "parents": [parent.ref for parent in artifact.parents],
        "metrics": artifact.metrics,
        "settings": dict(found.settings),
        "concepts": found.report.get("concepts", []),
        "losses": found.report.get("losses", []),
        "rows": found.report.get("rows"),
    }


def readings(found: FeatureSet) -> list[dict]:
    """One entry per feature, as its Reading."""
    return [reading.to_json() for reading in found.readings]
