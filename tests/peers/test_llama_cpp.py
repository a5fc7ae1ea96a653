"""llama.cpp, given the same weights and the same control vector, writes the same next-token logits.

Its logits were recorded once (release b11739, CPU) and are read from $TRIMTAB_GOLDENS, or from `shared/goldens` beside
the repository; the test is skipped where they are missing. llama.cpp quantises activations on the fly, so agreement is
a cosine of centred logits, not bits: without steering it is 0.9996. A vector one block off falls below 0.99, so the
test tells which block `direction.K` means: the output of block K, counted from 0.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

FOLDER = Path(os.environ.get("TRIMTAB_GOLDENS") or Path(__file__).parents[3] / "shared" / "goldens")
FILE = FOLDER / "llama_cpp_control_vector.npz"
SAME_BLOCK, OTHER_BLOCK = 0.998, 0.99

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.xdist_group("real_model"),
    pytest.mark.skipif(not FILE.exists(), reason="the recorded llama.cpp logits are not here; set TRIMTAB_GOLDENS"),
]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(real_model):
    return real_model[0]


@pytest.mark.parametrize("prompt", [0, 1])
def test_unsteered_logits_agree(model, golden, prompt):
    assert cosine(next_logits(model, golden[f"p{prompt}_ids"]), golden[f"p{prompt}_base"]) > 0.999


@pytest.mark.parametrize("prompt", [0, 1])
@pytest.mark.parametrize("block", [5, 12, 22])
def test_steered_logits_agree_at_that_block_and_no_other(model, golden, prompt, block):
    ids, vector = golden[f"p{prompt}_ids"], torch.from_numpy(golden[f"p{prompt}_k{block}_vector"])
    theirs = golden[f"p{prompt}_k{block}_steered"]
    agreement = {}
    for tried in (block - 1, block, block + 1):
        with SteeringPlan((Intervention(Site("resid_post", tried), Add(vector)),)).on(model):
            agreement[tried] = cosine(next_logits(model, ids), theirs)
    assert agreement.pop(block) > SAME_BLOCK
    assert max(agreement.values()) < OTHER_BLOCK, agreement


def next_logits(model, ids: np.ndarray) -> np.ndarray:
    """`[d_vocab]` after the last token of one prompt."""
    with torch.inference_mode():
        return model(torch.from_numpy(ids)[None]).logits[0, -1].numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Between logits minus their mean, in float64."""
    a, b = (x.astype(np.float64) - x.astype(np.float64).mean() for x in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
