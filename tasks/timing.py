"""How long a stage took. That is in the metrics of what it published, never in the header, which the digest covers: the
same work done twice at once would be two versions."""

import time
from typing import Any

from trimtab.store import Artifact

SECONDS = "seconds"


def seconds_since(started: float) -> dict[str, float]:
    """For `metrics`; started: what `time.monotonic` said."""
    return {SECONDS: round(time.monotonic() - started, 1)}


def seconds_of(artifact: Artifact) -> Any:
    """How long it took to make; versions from before have it in their header. None when nobody noted it."""
    metrics = artifact.metrics if isinstance(artifact.metrics, dict) else {}
    return metrics.get(SECONDS, artifact.header.get(SECONDS))
