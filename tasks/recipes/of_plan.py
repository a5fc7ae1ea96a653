"""The recipe behind a published plan, as JSON; this file imports nothing heavy.

A conditional plan carries its own recipe, which names the plan that it conditions but neither model nor form; these are
the conditioned plan's, whose recipe stands beside it in the header under BASE. (Conditional plans from before carry the
conditioned plan's recipe as theirs.)
"""

from typing import Any

from trimtab.store import Artifact

BASE = "base"


def base_values(artifact: Artifact) -> Any:
    """The plan's recipe, or that of the plan which it conditions: the one that names the model."""
    return artifact.header.get(BASE, artifact.recipe)
