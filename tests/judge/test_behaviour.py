"""Behavioural scores, recomputed by hand."""

import pytest

from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.behaviour import BEHAVIOURS, Brevity, Language, Lexicon, words


def test_words():
    assert words("Don’t STOP, l'été... naïve-ly 3 x_y!") == ["don't", "stop", "l'été", "naïve", "ly", "x", "y"]


def test_lexicon_rate_per_100_words():
    score = Lexicon(["Happy", "glad"], ["sad"])
    assert score("happy happy sad day", 4) == pytest.approx(100 * (2 - 1) / 4)
    assert score("HAPPY.", 2) == 100.0
    assert score("unhappy gladness", 2) == 0.0  # whole words only
    assert score("", 0) == score("12 34 !!", 5) == 0.0
    assert Lexicon(["a"], ["a"])("a b", 2) == 0.0


def test_brevity_is_minus_the_tokens():
    assert Brevity()("whatever", 7) == -7.0 > Brevity()("whatever", 32)


def test_language_by_function_words():
    french = Language(["le", "et", "est", "on"], ["the", "and", "is", "on"])
    assert french("Le chat est noir et le chien dort.", 9) == 1.0
    assert french("The cat is black and the dog sleeps.", 9) == -1.0
    assert french("le chat is black", 4) == 0.0
    assert french("on on on", 3) == 0.0  # both languages have it
    assert french("", 0) == 0.0


def test_every_score_says_what_it_is():
    made = [Lexicon(["a"]), Brevity(), Language(["le"], ["the"])]
    assert {m.name for m in made} == set(BEHAVIOURS) and all(m.metric for m in made)
    assert "tokens" in Brevity().metric


@pytest.mark.parametrize(
    "wrong", [lambda: Lexicon([]), lambda: Language(["on"], ["on", "the"]), lambda: Language([], ["a"])]
)
def test_bad_lists(wrong):
    with pytest.raises(SteeringError):
        wrong()
