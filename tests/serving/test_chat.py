"""`trimtab chat`: a conversation whose turns are remembered, with the nats of each answer."""

import io
import sys

import pytest

from tests.end_to_end.conftest import inside
from tests.serving.conftest import plan
from tests.serving.test_answers import model_alone
from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import CHAT, PromptFormat
from trimtab.steering.running.writing import Decoding
from trimtab.tasks.plans.talk import Talk


@pytest.fixture
def talk(tiny) -> Talk:
    return Talk(model_alone(tiny[0]), tiny[1], plan(1), "cheerful@1", Decoding(6, 0.0), CHAT)


def test_turns_are_remembered_until_told_to_forget(talk):
    first = talk.say("Hello there.")
    second = talk.say("Hello there.")
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2
    talk.forget()
    assert talk.say("Hello there.") == first != second
    assert first.nats > 0 and first.tokens == 6


def test_the_strength_changes_between_turns(talk):
    talk.strengthen(0)
    assert talk.say("Hello there.").nats == 0
    with pytest.raises(ValueError):
        talk.strengthen(float("nan"))


def test_the_system_message_of_the_recipe_is_said(talk):
    plain = talk.say("Hello there.")
    talk.forget()
    talk.form = PromptFormat(system="Answer in rhymes.")
    assert talk.say("Hello there.").text != plain.text


def test_a_name_that_is_none_is_refused(home):
    with pytest.raises(SteeringError, match="empty"):
        Talk.begin(" ", home, 1.0, 6, 0.0, 0)


def test_the_loop_in_the_terminal(talk, monkeypatch, tmp_path):
    """Lines in, answers out, as one types them; what is no answer goes to stderr."""
    monkeypatch.setattr(Talk, "begin", lambda *arguments: talk)
    said = ["Hello there.", "Hello there.", "/strength much", "/new", "/strength 0", "Hello there.", ""]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*said, "never read"]) + "\n"))
    done = inside("chat", "cheerful", home=tmp_path)
    assert done.code == 0, done.stderr
    first, second, unsteered = done.stdout.splitlines()
    fresh = Talk(talk.model, talk.tokenizer, talk.plan, talk.label, talk.decoding, talk.form)
    assert [first, second] == [fresh.say("Hello there.").text for _ in range(2)]
    fresh.forget()
    fresh.strengthen(0)
    assert unsteered == fresh.say("Hello there.").text != first
    assert "'much' is no number" in done.stderr and "[0 nats, 6 tokens]" in done.stderr
    assert done.stderr.startswith("cheerful@1; /strength NUMBER")
