"""Steering expressions: what a request says about steering."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.steering.engines.expression import Steering, Term, terms_of
from trimtab.steering.errors import BadExpression


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("  ", []),
        ("cheerful@prod", [("cheerful@prod", 1)]),
        ("0.5 cheerful@prod + 0.3 brief@2", [("cheerful@prod", 0.5), ("brief@2", 0.3)]),
        ("cheerful@prod*0.8", [("cheerful@prod", 0.8)]),
        ("cheerful@prod * 0.8+brief", [("cheerful@prod", 0.8), ("brief", 1)]),
        ("2*cheerful", [("cheerful", 2)]),
        ("-1.5 cheerful", [("cheerful", -1.5)]),
        ("cheerful - 0.2 toxic-talk", [("cheerful", 1), ("toxic-talk", -0.2)]),
        ("- cheerful", [("cheerful", -1)]),
        ("0.5", [("0.5", 1)]),
        ("0.5 0.5", [("0.5", 0.5)]),
        ("-a - -b", [("-a", 1), ("-b", -1)]),
        ("features@3:17 + 1e-1 cheerful@latest", [("features@3:17", 1), ("cheerful@latest", 0.1)]),
    ],
)
def test_text(text, terms):
    assert [(term.ref, term.factor) for term in terms_of(text)] == terms
    assert Steering.parse(text) == Steering(tuple(Term(*term) for term in terms))


@pytest.mark.parametrize(
    "text",
    ["cheerful brief", "Cheerful", "a+", "+", "a + + b", "0.5 * 0.5 a", "../x", "a@b@c", "a@", "1e999 a", "nan a"]
    + ["a b*2", "a 2", "é", "a\x00", "2 2 a", "a**2", "a:x", "+".join("a" * 40), "a" * 3000],
)
def test_text_that_is_none(text):
    with pytest.raises(BadExpression):
        terms_of(text)


def test_fields():
    steering = Steering.parse({"plan": "a + 0.5 b", "strength": 2, "govern": 0.5, "govern_total": None})
    assert steering == Steering((Term("a", 2), Term("b", 1)), govern=0.5)
    assert Steering.parse({"plan": "a", "kl": 0.2}) == Steering((Term("a"),), kl=0.2)
    assert Steering.parse({}) == Steering.parse({"plan": ""}) == Steering.parse(None) == Steering()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"plan": "a", "strenght": 2}, "did you mean 'strength'"),
        ({"plan": 3}, "steering.plan is a int"),
        ({"plan": "a", "strength": "2"}, "must be a number"),
        ({"plan": "a", "strength": True}, "must be a number"),
        ({"plan": "a", "strength": float("inf")}, "finite"),
        ({"plan": "a", "strength": 10**400}, "finite"),
        ({"plan": "a", "kl": 0}, "above 0"),
        ({"plan": "a", "kl": 1, "strength": 1}, "give one"),
        ({"strength": 1}, "without a plan"),
        ({"govern": 1}, "without a plan"),
        ([], "is a list"),
        (3, "is a int"),
    ],
)
def test_fields_that_are_none(fields, match):
    with pytest.raises(BadExpression, match=match):
        Steering.parse(fields)


names = st.from_regex(r"[a-z][a-z0-9]{0,8}(@[a-z0-9]{1,4})?", fullmatch=True)
factors = st.floats(-100, 100).map(lambda number: float(f"{number:.6g}"))


@given(st.lists(st.builds(Term, names, factors), max_size=5))
def test_an_expression_reads_back_what_it_writes(terms):
    steering = Steering(tuple(terms))
    assert Steering.parse(steering.expression) == steering


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        Steering.parse(text)
    except BadExpression as error:
        assert "Traceback" not in str(error)


def test_reading_needs_no_torch():
    code = "import sys, trimtab.steering.engines.expression; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
