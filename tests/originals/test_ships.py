"""SHIPS (arXiv 2410.13708), its arithmetic written anew: scaled query weights, KL at the last token, and the angle of
the first left singular vectors, on a tiny model."""

import copy

import numpy as np
import pytest
import torch

from trimtab.steering.causal.question import Question
from trimtab.steering.localisers.ships import Ships
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Role, Tokens

EPSILON = 1e-5
PROMPTS = ((7, 3, 52, 11, 30), (8, 3, 52), (17, 4, 23, 9, 1, 2), (41, 40, 12, 13))


def text(ids) -> Tokens:
    return Tokens(np.array(ids), len(ids), np.full(len(ids), Role.TEXT, np.uint8), np.zeros(len(ids), bool))


QUESTIONS = tuple(Question(text(ids), (5,)) for ids in PROMPTS)


@pytest.fixture(scope="module")
def model(build_tiny):
    return build_tiny("llama/plain")  # no query bias and no query norm: scaling W_q is undifferentiated attention


def surgery(model, block: int, head: int, weight: str):
    """A copy in which a head's rows of W_q (undifferentiated attention) are scaled by almost nothing, or its columns of
    W_o, which is what scaling its values is under grouped heads (scaling contribution)."""
    cut = copy.deepcopy(model)
    d = Anatomy.of(model).d_head
    attention, rows = cut.model.layers[block].self_attn, slice(head * d, (head + 1) * d)
    with torch.no_grad():
        if weight == "q":
            attention.q_proj.weight[rows] *= EPSILON
        else:
            attention.o_proj.weight[:, rows] *= EPSILON
    return cut


def last(model, what: str) -> list[np.ndarray]:
    with torch.no_grad():
        runs = [model(input_ids=torch.tensor([ids]), output_hidden_states=True) for ids in PROMPTS]
    if what == "states":
        return [run.hidden_states[-1][0, -1].double().numpy() for run in runs]
    return [run.logits[0, -1].double().softmax(-1).numpy() for run in runs]


@pytest.mark.parametrize(("operator", "weight"), [("uniform", "q"), ("zero", "o")])
def test_the_divergence_is_the_published_one(model, operator, weight):
    got = Ships(operator=operator).rank(Anatomy.of(model), QUESTIONS)
    base = last(model, "p")
    for block, head in ((0, 0), (1, 3), (2, 2)):
        cut = last(surgery(model, block, head, weight), "p")
        want = np.mean([(p * np.log((p + 1e-12) / (q + 1e-12))).sum() for p, q in zip(base, cut, strict=True)])
        assert got.grid()[block, head] == pytest.approx(want, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(("operator", "weight"), [("uniform", "q"), ("zero", "o")])
def test_the_angle_is_the_published_one(model, operator, weight):
    got = Ships(form="dataset", operator=operator).rank(Anatomy.of(model), QUESTIONS)
    base = np.linalg.svd(np.stack(last(model, "states")))[0][:, 0]
    for block, head in ((0, 0), (1, 3), (2, 2)):
        cut = np.linalg.svd(np.stack(last(surgery(model, block, head, weight), "states")))[0][:, 0]
        want = np.degrees(np.arccos(min(1.0, abs(base @ cut))))
        assert got.grid()[block, head] == pytest.approx(want, rel=2e-3, abs=1e-2)
