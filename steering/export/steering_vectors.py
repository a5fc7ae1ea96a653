"""steering_vectors: `SteeringVector(**torch.load(FILE, weights_only=True))` of the steering-vectors package.

Source: steering-vectors 0.12, steering_vectors/steering_vector.py. Blocks count from 0 and the vector is added to the
output of the block, as here. Its `min_token_index` counts in each forward pass, so with a key-value cache anything
but 0 steers no generated token; the file therefore holds plans for every token only.
"""

from pathlib import Path

from trimtab.steering.errors import BadFile
from trimtab.steering.export._additions import additions_everywhere, plan_everywhere, vector_of
from trimtab.steering.export._torch_file import read_tensors, write_tensors
from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan

LAYER_TYPE = "decoder_block"


class SteeringVectors(Format):
    """Vectors of the steering-vectors package."""

    suffix = ".pt"
    tool = "steering-vectors"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        vectors = additions_everywhere(plan, self.tool)
        write_tensors(path, {"layer_activations": vectors, "layer_type": LAYER_TYPE})

    def read(self, path: Path) -> SteeringPlan:
        fields = read_tensors(path)
        vectors, layer_type = fields.get("layer_activations"), fields.get("layer_type", LAYER_TYPE)
        if not isinstance(vectors, dict) or not all(isinstance(block, int) and block >= 0 for block in vectors):
            raise BadFile(f"{path} has no 'layer_activations' by block; it holds {', '.join(map(str, fields))}")
        if layer_type != LAYER_TYPE:
            raise BadFile(f"{path} acts on '{layer_type}' layers; only '{LAYER_TYPE}' has a place in a plan")
        return plan_everywhere({block: vector_of(v, f"{path}: block {block}") for block, v in vectors.items()})
