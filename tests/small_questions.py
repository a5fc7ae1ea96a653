"""Two small questions with corrupted prompts and wrong answers, for tests of localisers on tiny models."""

import numpy as np
import torch

from trimtab.steering.causal.question import Question
from trimtab.steering.model.tokens import Role, Tokens

CPU = torch.device("cpu")


def text(*ids: int) -> Tokens:
    """A prompt of these tokens."""
    array = np.array(ids)
    return Tokens(array, len(ids), np.full(len(ids), Role.TEXT, np.uint8), np.zeros(len(ids), bool))


QUESTIONS = (
    Question(text(7, 3, 52, 11, 30), (4,), text(7, 3, 50, 11, 30), (33,)),
    Question(text(8, 3, 52, 11, 30, 22, 1), (5,), text(8, 3, 40, 12, 30, 22, 1), (33,)),
)
PAIR = range(2)
