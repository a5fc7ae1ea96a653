"""Rows of task files become questions, or one clear line each that says why not."""

import json
from pathlib import Path

import pytest

from trimtab.steering.model.embedded import embedded_folder
from trimtab.tasks.data.questions import questions_of, read_questions
from trimtab.tasks.errors import DataError
from trimtab.tasks.recipes.kinds import load_recipe, make_recipe

TASKS = sorted((Path(__file__).parents[2] / "recipes" / "tasks").glob("*.jsonl"))
RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "heads").glob("*.yaml"))
GOOD = [
    {
        "prompt": f"The capital number {k} is",
        "answer": "Rome",
        "corrupted": f"The river number {k} is",
        "wrong": "Oslo",
    }
    for k in range(8)
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_folder())


def written(folder: Path, rows: list[dict]) -> Path:
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_every_task_file_gives_questions_fit_for_patching(path, tokenizer):
    rows = read_questions(path)
    questions = questions_of(tokenizer, rows)
    assert len(questions) >= 60 and len({row.template for row in rows}) >= 2
    for question in questions:
        assert question.corrupted is not None and question.wrong is not None
        assert not (question.clean.ids == question.corrupted.ids).all()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_head_recipe_loads_and_splits_its_questions(path):
    recipe = load_recipe(path)
    first, second = recipe.halves()
    assert not {row.prompt for row in first} & {row.prompt for row in second}
    assert min(len(first), len(second)) >= 24
    assert make_recipe(recipe.to_json()).stage("rank") == recipe.stage("rank")
    assert load_recipe(path, ["name=another"]).stage("rank") == recipe.stage("rank")
    assert load_recipe(path, ["rank.questions=9"]).stage("rank") != recipe.stage("rank")


def test_the_answer_follows_the_prompt_with_a_space(tmp_path, tokenizer):
    (first, *_) = questions_of(tokenizer, read_questions(written(tmp_path, GOOD)))
    assert tokenizer.decode(first.target) == " Rome" and tokenizer.decode(first.wrong) == " Oslo"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answr": "Rome"}, "task.jsonl:3: unknown key 'answr'; did you mean 'answer'"),
        ({"answer": "Oslo"}, "task.jsonl:3: answer and wrong are the same text"),
        ({"corrupted": "The capital number 2 is"}, "task.jsonl:3: prompt and corrupted are the same text"),
        ({"answer": ""}, "task.jsonl:3: 'answer' is empty"),
        ({"prompt": "The capital number 1 is"}, "task.jsonl:3: the same question as"),
        ({"prompt": 3}, "task.jsonl:3: 'prompt' must be text"),
    ],
)
def test_a_bad_row_is_one_line(tmp_path, change, says):
    rows = [dict(row) for row in GOOD]
    rows[2] |= change
    with pytest.raises(DataError, match="task") as raised:
        read_questions(written(tmp_path, rows), "task.jsonl")
    assert str(raised.value).startswith(says)


def test_a_key_of_some_rows_only_is_refused(tmp_path):
    rows = [dict(row) for row in GOOD]
    del rows[4]["wrong"]
    with pytest.raises(DataError, match="task.jsonl:5: 'wrong' is missing, but 7 of 8 rows"):
        read_questions(written(tmp_path, rows), "task.jsonl")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"corrupted": "The capital is"}, "equal length"),
        ({"wrong": "Rome is"}, "must differ in their first token"),
    ],
)
def test_tokens_that_do_not_fit_name_the_row(tmp_path, tokenizer, change, says):
    rows = [dict(row) for row in GOOD]
    rows[2] |= change
    with pytest.raises(DataError) as raised:
        questions_of(tokenizer, read_questions(written(tmp_path, rows), "task.jsonl"))
    assert str(raised.value).startswith("task.jsonl:3: ")
    assert len(raised.value.lines) == 1
    assert says in str(raised.value)
