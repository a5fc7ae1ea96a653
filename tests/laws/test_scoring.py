"""Scoring with prompts run once gives the logits of whole passes, in every family and for every span."""

import numpy as np
import pytest
import torch

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.scorer import Scorer, forced_logits


def texts() -> list[Tokens]:
    """Two completions of each of three prompts of different lengths."""
    stream, found = np.random.default_rng(0), []
    for length in (4, 9, 6):
        prompt = stream.integers(2, 57, length)
        for n in (3, 5):
            ids = np.concatenate([prompt, stream.integers(2, 57, n)])
            found.append(Tokens(ids, length, np.zeros(length + n, np.uint8), np.zeros(length + n, bool)))
    return found


@pytest.mark.parametrize("span", [None, "all", "answer", "first:3"])
def test_shared_prompts_equal_whole_passes(tiny, span):
    anatomy, plan = Anatomy.of(tiny), None
    if span is not None:
        vector = torch.randn(anatomy.d_model, generator=torch.Generator().manual_seed(0))
        plan = SteeringPlan((Intervention(Site("resid_post", 0), Add(vector), Span.parse(span)),))
    whole = {f.example: f for f in forced_logits(tiny, texts(), plan)}
    shared = {f.example: f for f in Scorer(tiny).forced(texts(), plan)}
    assert whole.keys() == shared.keys() == set(range(6))
    for i, one in whole.items():
        assert torch.equal(one.targets, shared[i].targets)
        torch.testing.assert_close(one.logits, shared[i].logits, rtol=1e-3, atol=1e-3)
