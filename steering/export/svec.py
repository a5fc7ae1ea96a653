"""svec: JSON of IBM's activation-steering and AISteer360 (`SteeringVector.load(FILE)`).

Source: AISteer360, state_control/common/steering_vector.py: `{"model_type", "directions": {block: [[d numbers]]}}`.
A direction of one row is added at every steered token, which tokens being chosen where it is applied; one of several
rows belongs to positions of a prompt (ActAdd), which a plan cannot say, and is refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.steering.errors import BadFile
from trimtab.steering.export._additions import additions_everywhere, fingerprint_of, plan_everywhere, vector_of
from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.whole import written_whole


class Svec(Format):
    """Vectors of AISteer360 and activation-steering."""

    suffix = ".svec"
    tool = "AISteer360"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        vectors = additions_everywhere(plan, self.tool)
        directions = {str(block): [vector.tolist()] for block, vector in sorted(vectors.items())}
        document = {"model_type": fingerprint_of(plan, self.tool).model_type, "directions": directions}
        with written_whole(path) as part:
            part.write_text(json.dumps(document, allow_nan=False))

    def read(self, path: Path) -> SteeringPlan:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            directions = {int(block): rows for block, rows in document["directions"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadFile(f"{path} is not a .svec file: {error!r}") from error
        if document.get("num_heads"):
            raise BadFile(f"{path} holds directions of single heads; only whole blocks can be read")
        return plan_everywhere({block: _row(rows, block, path) for block, rows in directions.items()})


def _row(rows: Any, block: int, path: Path) -> Any:
    try:
        array = np.atleast_2d(np.asarray(rows, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise BadFile(f"{path}: block {block} is not rows of numbers: {error}") from error
    if block < 0 or array.shape[0] != 1:
        raise BadFile(
            f"{path}: block {block} has {array.shape[0]} rows; more than one belong to positions of a prompt, "
            f"which a plan cannot say"
        )
    return vector_of(array[0], f"{path}: block {block}")
