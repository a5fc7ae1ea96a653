"""nnsight reads the same block outputs and head inputs, to the bit."""

import pytest
import torch

pytest.importorskip("nnsight", reason="nnsight is not installed; BENCHMARKS.md says how")

from nnsight import NNsight

from trimtab.steering.model.site import Site
from trimtab.steering.running.reading import capture


def test_residuals_and_heads_are_equal_to_the_bit(subject):
    text, block = subject.texts[1], subject.middle
    ids = torch.from_numpy(text.ids)[None]
    watched = NNsight(subject.model)
    with torch.inference_mode(), watched.trace(ids, use_cache=False):
        z = watched.model.layers[block].self_attn.o_proj.input.save()
        residual = watched.model.layers[block].output.save()
    sites = [Site("z", block), Site("resid_post", block)]
    ours = capture(subject.anatomy, [text], sites).rows
    assert torch.equal(ours[sites[0]][0], z[0])
    assert torch.equal(ours[sites[1]][0], residual[0])
