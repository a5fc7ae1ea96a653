"""Average indirect effect (function vectors, arXiv 2310.15213), its arithmetic written anew with hooks of its own: mean
head output at the last token of clean prompts, put into corrupted ones, probability of the answer."""

import numpy as np
import pytest
import torch

from trimtab.steering.causal.question import Question
from trimtab.steering.localisers.indirect_effect import IndirectEffect
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Role, Tokens

CLEAN = ((7, 3, 52, 11, 30), (8, 3, 52, 9), (17, 4, 23, 9, 1, 2))
SHUFFLED = ((7, 52, 3, 11, 30), (8, 52, 3, 9), (17, 23, 4, 9, 2, 2))
ANSWERS = (5, 41, 12)


def text(ids) -> Tokens:
    return Tokens(np.array(ids), len(ids), np.full(len(ids), Role.TEXT, np.uint8), np.zeros(len(ids), bool))


QUESTIONS = tuple(Question(text(c), (a,), text(s)) for c, s, a in zip(CLEAN, SHUFFLED, ANSWERS, strict=True))


def run(model, ids, block: int, edit=None):
    """Probabilities after the prompt; `edit` sees the projection's input at the last token."""

    def hook(module, args):
        z = args[0].clone()
        edit(z[0, -1])
        return (z,)

    handle = model.model.layers[block].self_attn.o_proj.register_forward_pre_hook(hook) if edit else None
    try:
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    finally:
        if handle:
            handle.remove()


def published(model, block: int, head: int, d: int) -> float:
    columns, seen = slice(head * d, (head + 1) * d), []
    for ids in CLEAN:
        run(model, ids, block, lambda z: seen.append(z[columns].clone()))
    mean = torch.stack(seen).mean(0)
    effects = []
    for ids, answer in zip(SHUFFLED, ANSWERS, strict=True):
        patched = run(model, ids, block, lambda z: z.__setitem__(columns, mean))
        effects.append(float(patched[answer] - run(model, ids, block)[answer]))
    return float(np.mean(effects))


def test_the_effect_is_the_published_one(tiny_llama):
    anatomy = Anatomy.of(tiny_llama)
    got = IndirectEffect().rank(anatomy, QUESTIONS).grid()
    for block in range(3):
        for head in range(4):
            want = published(tiny_llama, block, head, anatomy.d_head)
            assert got[block, head] == pytest.approx(want, rel=1e-3, abs=1e-6)
    assert np.abs(got).max() > 1e-3
