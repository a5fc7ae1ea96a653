"""What a prompt may cost: templates get seconds, and a prompt longer than the model's context is refused at once."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from trimtab.steering.errors import SteeringError
from trimtab.steering.model import tokens
from trimtab.steering.model.tokens import Tokens, tokenize
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.plans.steer import check_length


def fails(*_, **__):
    raise ValueError("roles must alternate")


TEMPLATES = {
    "did not end within 0.1 s": lambda *_, **__: time.sleep(1),
    "failed: roles must alternate": fails,
    "wrote 101 characters": lambda *_, **__: "x" * 101,
}


def test_templates_that_loop_fail_or_flood_are_refused(monkeypatch):
    monkeypatch.setattr(tokens, "TEMPLATE_SECONDS", 0.1)
    monkeypatch.setattr(tokens, "TEMPLATE_CHARACTERS", 100)
    for message, template in TEMPLATES.items():
        with pytest.raises(SteeringError, match=message):
            tokenize(SimpleNamespace(chat_template="x", apply_chat_template=template), "Hello")  # type: ignore[arg-type]


def test_a_prompt_beyond_the_context_is_refused(tiny_llama):
    limit = tiny_llama.config.max_position_embeddings

    def text(length: int) -> Tokens:
        return Tokens(np.zeros(length, np.int64), length, np.zeros(length, np.uint8), np.zeros(length, bool))

    check_length(tiny_llama, [text(limit - 8)], 8)
    with pytest.raises(RecipeError, match=f"{limit - 7} tokens and an answer of 8 are more than the model's {limit}"):
        check_length(tiny_llama, [text(3), text(limit - 7)], 8)
