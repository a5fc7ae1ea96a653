"""Questions from JSONL: a prompt, its answer, the same prompt corrupted, and the answer to that. One row, one Question.

    {"prompt": "The capital of Italy is", "answer": "Rome", "corrupted": "The capital of Japan is", "wrong": "Tokyo"}

`template` names the form of words a row was made with; `corrupted` and `wrong` may be left out of a whole file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.steering.causal.question import Question
from trimtab.steering.errors import BadQuestion
from trimtab.steering.model.tokens import PromptFormat, tokenize
from trimtab.tasks.data.rows import MAX_PROBLEMS, MIN_ROWS, check_keys, read_jsonl, text_of
from trimtab.tasks.errors import DataError

NEEDED = ("prompt", "answer")
OPTIONAL = ("corrupted", "wrong", "template")


@dataclass(frozen=True)
class QuestionRow:
    """One line of a file, checked: the texts of one Question. It is no Example, since it has two prompts and two
    answers, which are compared with each other. where: `file:line`."""

    prompt: str
    answer: str
    where: str
    corrupted: str | None = None
    wrong: str | None = None
    template: str = ""


def read_questions(path: Path, name: str | None = None) -> tuple[QuestionRow, ...]:
    """Rows of a file, in its order. Raises DataError: one line per bad row (5 at most), each naming file and line."""
    shown = name or str(path)
    problems: list[str] = []
    rows: list[QuestionRow] = []
    lines: dict[tuple[str, str], str] = {}
    for number, record in read_jsonl(path, shown):
        where = f"{shown}:{number}"
        try:
            row = question_row(record, where)
            _refuse_repeat(row, lines)
            rows.append(row)
        except DataError as error:
            problems += error.lines
            if len(problems) >= MAX_PROBLEMS:
                break
    problems = problems or list(_uneven(rows, shown))
    if problems:
        raise DataError(problems)
    if len(rows) < MIN_ROWS:
        raise DataError(f"{shown}: {len(rows)} questions are too few to rank on and to test on; give {MIN_ROWS}")
    return tuple(rows)


def question_row(record: Mapping[str, Any], where: str) -> QuestionRow:
    """A checked row. Raises DataError."""
    check_keys(record, NEEDED, OPTIONAL, where)
    texts = {key: text_of(record, key, where) for key in (*NEEDED, *OPTIONAL) if key in record}
    row = QuestionRow(where=where, **texts)
    if row.answer == row.wrong:
        raise DataError(f"{where}: answer and wrong are the same text, so no run can tell them apart; change one")
    if row.prompt == row.corrupted:
        raise DataError(
            f"{where}: prompt and corrupted are the same text, so patching would change nothing; change one"
        )
    return row


def questions_of(tokenizer: PreTrainedTokenizerBase, rows: Sequence[QuestionRow]) -> list[Question]:
    """Rows as questions, plain text without a chat template, a space before the answer. Raises DataError: one line per
    row whose tokens do not make a question (5 at most)."""
    questions: list[Question] = []
    problems: list[str] = []
    for row in rows:
        try:
            questions.append(question_of(tokenizer, row))
        except DataError as error:
            problems += error.lines
    if problems:
        raise DataError(problems[:MAX_PROBLEMS])
    return questions


def question_of(tokenizer: PreTrainedTokenizerBase, row: QuestionRow) -> Question:
    """One row as a question. Raises DataError."""
    form = PromptFormat(chat=False)
    clean = tokenize(tokenizer, row.prompt, row.answer, form)
    corrupted = None if row.corrupted is None else tokenize(tokenizer, row.corrupted, form=form)
    wrong = None if row.wrong is None else tokenize(tokenizer, row.prompt, row.wrong, form)
    n = clean.prompt_length
    try:
        return Question(
            clean.prompt,
            tuple(clean.ids[n:].tolist()),
            corrupted,
            None if wrong is None else tuple(wrong.ids[n:].tolist()),
        )
    except BadQuestion as error:
        raise DataError(f"{row.where}: {error}") from None


def _refuse_repeat(row: QuestionRow, lines: dict[tuple[str, str], str]) -> None:
    key = (row.prompt, row.answer)
    if key in lines:
        raise DataError(f"{row.where}: the same question as {lines[key]}; it would count twice, remove one")
    lines[key] = row.where


def _uneven(rows: Sequence[QuestionRow], shown: str) -> Sequence[str]:
    """A method needs `wrong` and `corrupted` of every question or of none."""
    problems = []
    for key in ("corrupted", "wrong"):
        lacking = [row.where for row in rows if getattr(row, key) is None]
        if 0 < len(lacking) < len(rows):
            problems.append(
                f"{lacking[0]}: '{key}' is missing, but {len(rows) - len(lacking)} of {len(rows)} rows of {shown} have "
                f"it; give it to every row or to none"
            )
    return problems
