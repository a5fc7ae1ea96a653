"""Tokens against accuracy: marking, and what a plan that ends answers early must show."""

import pytest
import torch

from trimtab.steering.judge.answering import AnsweringSettings, Examiner, ExamQuestion, holds
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ANSWER
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.writing import Decoding, generate

LIMIT, END = 12, 7
SETTINGS = AnsweringSettings(questions=8, tokens=LIMIT, factors=(0.0, 1.0))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 13.", "13"),
        ("The sum is thirteen!", "13"),
        ("About 1,200 km", "1200"),
        ("In PARIS, of course", "Paris"),
        ("New  York city", "new york"),
    ],
)
def test_an_answer_is_found_as_whole_words(text: str, answer: str) -> None:
    assert holds(text, answer)


@pytest.mark.parametrize(("text", "answer"), [("It is 130.", "13"), ("3.5", "3"), ("Parisian", "Paris"), ("", "a")])
def test_and_not_as_parts_of_others(text: str, answer: str) -> None:
    assert not holds(text, answer)


def spelled(ids) -> str:
    return " ".join(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in ids)


@pytest.fixture
def ending(tiny):
    """The tiny model, whose answers may end."""
    tiny.generation_config.eos_token_id = END
    yield tiny
    tiny.generation_config.eos_token_id = None


@pytest.fixture
def exam(ending, make_text):
    """Questions whose right answer is the last word that the unsteered model writes."""
    questions = [make_text(40 + k, 6 + k % 3, 0) for k in range(10)]
    written = generate(ending, questions, None, Decoding(LIMIT, temperature=0.0))
    return [ExamQuestion(q, spelled(ids[-1:]), q) for q, ids in zip(questions, written, strict=True) if ids]


def ender(model, size: float) -> SteeringPlan:
    """Pushes every generated position towards the token that ends an answer."""
    row = model.lm_head.weight.detach()[END]
    return SteeringPlan((Intervention(Site("resid_post", 2), Add(size * row / row.norm()), ANSWER),))


def test_a_plan_that_ends_answers_saves_tokens_and_loses_what_they_said(ending, exam) -> None:
    found = Examiner(ending, spelled, SETTINGS).answering(exam, ender(ending, 30.0))
    assert (found.asked, found.able, found.limit) == (len(exam[:8]), len(exam[:8]), LIMIT)
    nothing, plan, prompt = found.points
    assert nothing.saved.mean == 0 and nothing.kept.mean == 1 and nothing.tokens.mean == found.tokens
    assert plan.saved.low > 0 and plan.kept.mean < 1
    assert plan.tokens.mean + plan.saved.mean == pytest.approx(found.tokens)
    assert plan.cut.mean < 1, "cutting the last word off must lose it"
    # the prompt that "asks" is the question itself here: the base model's own answer
    assert prompt.kind == "system_prompt" and prompt.saved.mean == 0 and prompt.kept.mean == 1


def test_only_questions_that_the_model_answers_count(ending, exam) -> None:
    wrong = [ExamQuestion(one.question, "never", one.requesting) for one in exam[:3]]
    found = Examiner(ending, spelled, SETTINGS).answering(wrong + exam[3:8], ender(ending, 0.0))
    assert found.asked == len(wrong + exam[3:8]) and found.able == found.asked - 3
    assert found.points[0].kept.mean == 1 and found.points[0].kept.n == found.able


def test_too_few_right_answers_give_no_points_and_no_error(ending, exam) -> None:
    wrong = [ExamQuestion(one.question, "never") for one in exam]
    found = Examiner(ending, spelled, SETTINGS).answering(wrong, ender(ending, 1.0))
    assert found.able == 0 and found.points == () and found.tokens == 0


def test_without_words_that_ask_there_is_no_prompt_to_compare(ending, exam) -> None:
    silent = [ExamQuestion(one.question, one.answer) for one in exam]
    found = Examiner(ending, spelled, SETTINGS).answering(silent, ender(ending, 0.0))
    assert [one.kind for one in found.points] == ["plan", "plan"]


def test_marks_are_the_same_for_any_seed(ending, exam) -> None:
    torch.manual_seed(1)
    once = Examiner(ending, spelled, SETTINGS).answering(exam, ender(ending, 5.0))
    torch.manual_seed(2)
    assert Examiner(ending, spelled, SETTINGS).answering(exam, ender(ending, 5.0)) == once
