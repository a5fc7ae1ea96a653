"""The judge's files: neutral text, questions with a right and a wrong answer, questions with known answers, and
lexicons."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from trimtab.store.digests import canonical
from trimtab.tasks.data.examples import Example, ExamplePair
from trimtab.tasks.data.files import packaged
from trimtab.tasks.data.rows import check_keys, read_jsonl, text_of
from trimtab.tasks.data.sections import DataFile
from trimtab.tasks.errors import DataError

FEWEST = 2  # rows, for an interval
WORD = 16  # characters of one word that is surely several tokens (scripts without spaces write whole sentences so)
T = TypeVar("T")


def neutral_texts(file: DataFile | None) -> tuple[str, ...]:
    """Text that has nothing to do with the behaviour: `{text}` per line. None: the packaged file. Raises DataError."""
    path, texts = _file(file, "neutral.jsonl"), []
    for where, row in _checked(path, ("text",)):
        text = row["text"]
        if len(text.split()) < 2 and len(text) < WORD:
            raise DataError(
                f"{where}: the neutral text '{text}' is one word: every token but the first is predicted, so it may "
                f"predict nothing; give whole sentences"
            )
        texts.append(text)
    return _enough(texts, path)


def capability_pairs(file: DataFile | None) -> tuple[ExamplePair, ...]:
    """`{question, correct, incorrect}` per line: the question with the right answer, then with the wrong one. None: the
    packaged file. Raises DataError."""
    path, pairs = _file(file, "capability.jsonl"), []
    for where, row in _checked(path, ("question", "correct", "incorrect")):
        if row["correct"] == row["incorrect"]:
            raise DataError(
                f"{where}: correct and incorrect are the same text, which is right half of the time whatever the "
                f"model; change one"
            )
        pairs.append((Example(row["question"], row["correct"], 1), Example(row["question"], row["incorrect"], -1)))
    return _enough(pairs, path)


def known_questions(file: DataFile | None) -> tuple[Example, ...]:
    """`{question, answer}` per line, as prompt and completion: the words that a right answer holds. None without a
    file. Raises DataError."""
    if file is None:
        return ()
    path = file.unchanged()
    rows = [row for _, row in _checked(path, ("question", "answer"))]
    return _enough([Example(row["question"], row["answer"]) for row in rows], path)


def read_lexicon(file: DataFile) -> dict[str, tuple[str, ...]]:
    """`{"positive": [words], "negative": [words]}`; negative may be missing. Raises DataError."""
    path = file.unchanged()
    try:
        lexicon = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError):
        raise DataError(
            f'{path}: not JSON in UTF-8; a lexicon is {{"positive": [words], "negative": [words]}}'
        ) from None
    if not isinstance(lexicon, dict):
        raise DataError(f'{path}: a lexicon is {{"positive": [words], "negative": [words]}}')
    check_keys(lexicon, ("positive",), ("negative",), str(path))
    lists = {key: _words(lexicon[key], key, path) if key in lexicon else () for key in ("positive", "negative")}
    both = sorted({word.lower() for word in lists["positive"]} & {word.lower() for word in lists["negative"]})
    if both:
        raise DataError(
            f"{path}: '{both[0]}' is a positive and a negative word, so it counts for nothing "
            f"({len(both)} such words); keep it on one side"
        )
    return lists


def function_words() -> dict[str, list[str]]:
    """Frequent words of each language that the packaged lists tell apart."""
    return json.loads(packaged("function_words.json").read_text("utf-8"))


def _checked(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`file:line`, row) of a judge's file. Raises DataError for other keys, values that are not text, and a row that
    came before."""
    lines: dict[bytes, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        check_keys(row, keys, (), where)
        row = {key: text_of(row, key, where) for key in keys}
        before = lines.setdefault(canonical(row), number)
        if before != number:
            raise DataError(f"{where}: the same row as line {before}; a repeated row counts twice, remove it")
        yield where, row


def _words(value: object, key: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(w, str) and w.strip() for w in value):
        raise DataError(f"{path}: '{key}' must be a list of words, and not an empty one")
    return tuple(value)


def _enough(rows: list[T], path: Path) -> tuple[T, ...]:
    if len(rows) < FEWEST:
        raise DataError(f"{path}: {len(rows)} rows; an interval needs at least {FEWEST}")
    return tuple(rows)


def _file(file: DataFile | None, name: str) -> Path:
    return packaged(name) if file is None else file.unchanged()
