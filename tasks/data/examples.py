"""Examples: a recipe's data files as one flat list of texts, each with its class, pair and split; and the judge's
files (neutral text, capability items, lexicon)."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.tasks.data.jsonl import (
    SPLITS,
    ClassRow,
    PairRow,
    Prompt,
    canonical,
    check_keys,
    each_class,
    each_pair,
    file_digest,
    read_jsonl,
    split_of,
    text_of,
)
from trimtab.tasks.data.remembered import Remembered
from trimtab.tasks.data.sections import Data, DataFile
from trimtab.tasks.data.shipped_files import packaged
from trimtab.tasks.errors import DataError

MIN_PER_SPLIT = 2
WORD = 16  # characters of one word that is surely several tokens (scripts without spaces write whole sentences so)
ONLY_PROMPT = ("prompt", "last")


@dataclass(frozen=True)
class Example:
    """One text to run. completion: None when the prompt is the whole text. label: +1 or -1. pair: examples with one
    number answer one prompt (-1: unpaired). split: fit, select or report. concept: that a sentence of a features recipe
    expresses, "" for none."""

    prompt: Prompt
    completion: str | None
    label: int
    pair: int
    split: str
    concept: str = ""

    @property
    def size(self) -> int:
        """Characters."""
        prompt = self.prompt if isinstance(self.prompt, str) else "".join(m["content"] for m in self.prompt)
        return len(prompt) + len(self.completion or "")


_EXAMPLES = Remembered[Example](lambda example: example.size)


@dataclass(frozen=True)
class Item:
    """One question of the capability set, with a right and a wrong answer."""

    question: str
    correct: str
    incorrect: str


def examples_of(data: Data) -> tuple[Example, ...]:
    """Every text in the order of the files, positive before negative within a pair.

    Raises DataError when a file is wrong, or changed since the recipe was read.
    """
    return tuple(each_example(data))


def each_example(data: Data) -> Iterator[Example]:
    """The texts of `examples_of`, one in memory at a time. Raises DataError as soon as it is known."""
    check_unchanged(data)
    return _EXAMPLES.each(data.model_dump_json(), lambda: _read_examples(data))


def check_unchanged(data: Data) -> None:
    """Raises DataError when a file is not what it was when the recipe was read."""
    for file in (data.pairs, data.positive, data.negative):
        if file is not None:
            _unchanged(file)


def _read_examples(data: Data) -> Iterator[Example]:
    if data.pairs is not None:
        for number, row in enumerate(each_pair(Path(data.pairs.path), columns=data.columns)):
            yield from _pair_examples(data, number, row)
        return
    assert data.positive is not None and data.negative is not None  # Data refuses anything else
    yield from _class_examples(data, each_class(Path(data.positive.path), columns=data.columns), 1)
    yield from _class_examples(data, each_class(Path(data.negative.path), columns=data.columns), -1)


@dataclass
class Tally:
    """What must be known of all texts to say whether a recipe can be answered with them.

    counts: by label and split. whole: texts without a completion. paired: texts of pairs with one. chat: prompts that
    are chat messages.
    """

    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    whole: int = 0
    paired: int = 0
    chat: int = 0

    def add(self, example: Example) -> None:
        """Count one text."""
        self.counts[example.label, example.split] += 1
        self.whole += example.completion is None
        self.paired += example.pair >= 0 and example.completion is not None
        self.chat += not isinstance(example.prompt, str)

    @property
    def total(self) -> int:
        return self.counts.total()


def check_data(data: Data, span: str, judged: bool) -> None:
    """Raises DataError when the rows cannot answer what the recipe asks of them: its span, and, where they are judged
    too, a judgement, which compares completions. Reads the files through once."""
    tally, name = Tally(), _shown(data)
    for example in each_example(data):
        tally.add(example)
    _check_splits(tally, name)
    _check_span(tally, span, name)
    if not data.chat and tally.chat:
        raise DataError(
            f"{name}: holds chat messages, but the recipe says `chat: false`; use `chat: true` or plain text"
        )
    if judged and tally.whole:
        raise DataError(
            f"{name}: holds texts without a prompt and a completion, so nothing can be judged on them; "
            f"`trimtab collect` takes them, `trimtab run` needs a prompt and its completions in every row"
        )


@dataclass(frozen=True)
class KnownQuestion:
    """One question with the words that a right answer holds."""

    question: str
    answer: str


def neutral_texts(file: DataFile | None) -> tuple[str, ...]:
    """Text that has nothing to do with the behaviour: `{text}` per line. None: the packaged file. Raises DataError."""
    path = _file(file, "neutral.jsonl")
    rows = [(where, text_of(row, "text", where)) for where, row in _checked(path, ("text",))]
    for where, text in rows:
        if len(text.split()) < 2 and len(text) < WORD:
            raise DataError(
                f"{where}: the neutral text '{text}' is one word: every token but the first is predicted, so it may "
                f"predict nothing; give whole sentences"
            )
    return _enough([text for _, text in rows], path)


def capability_items(file: DataFile | None) -> tuple[Item, ...]:
    """`{question, correct, incorrect}` per line. None: the packaged file. Raises DataError."""
    path = _file(file, "capability.jsonl")
    items, keys = [], ("question", "correct", "incorrect")
    for where, row in _checked(path, keys):
        item = Item(*(text_of(row, key, where) for key in keys))
        if item.correct == item.incorrect:
            raise DataError(
                f"{where}: correct and incorrect are the same text, which is right half of the time whatever the "
                f"model; change one"
            )
        items.append(item)
    return _enough(items, path)


def known_questions(file: DataFile | None) -> tuple[KnownQuestion, ...]:
    """`{question, answer}` per line; none without a file. Raises DataError."""
    if file is None:
        return ()
    path, keys = _unchanged(file), ("question", "answer")
    rows = [KnownQuestion(*(text_of(row, key, where) for key in keys)) for where, row in _checked(path, keys)]
    return _enough(rows, path)


def read_lexicon(file: DataFile) -> dict[str, tuple[str, ...]]:
    """`{"positive": [words], "negative": [words]}`; negative may be missing. Raises DataError."""
    path = _unchanged(file)
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
    """(`file:line`, row) of a judge's file. Raises DataError for other keys, and for a row that came before."""
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        check_keys(row, keys, (), where)
        before = lines.setdefault(canonical(row), number)
        if before != number:
            raise DataError(f"{where}: the same row as line {before}; a repeated row counts twice, remove it")
        yield where, row


def _pair_examples(data: Data, number: int, row: PairRow) -> Iterator[Example]:
    split = split_of(row.identity, data.split.shares, data.split.seed)
    for label, text in ((1, row.positive), (-1, row.negative)):
        prompt, completion = (text, None) if row.prompt is None else (row.prompt, text)
        yield Example(prompt, completion, label, number, split)


def _class_examples(data: Data, rows: Iterable[ClassRow], label: int) -> Iterator[Example]:
    for row in rows:
        split = split_of(row.identity, data.split.shares, data.split.seed)
        yield Example(row.prompt, row.completion, label, -1, split)


def _check_splits(tally: Tally, name: str) -> None:
    for label in (1, -1):
        for split in SPLITS:
            n = tally.counts[label, split]
            if n < MIN_PER_SPLIT:
                side = "positive" if label > 0 else "negative"
                raise DataError(
                    f"{name}: the {split} split gets {n} {side} rows of {tally.total // 2}, it needs "
                    f"{MIN_PER_SPLIT}; add rows, or change data.split"
                )


def _check_span(tally: Tally, span: str, name: str) -> None:
    if span == "generated" and tally.whole:
        raise DataError(
            f"{name}: {tally.whole} of {tally.total} texts have no completion, so capture.span 'generated' selects "
            f"nothing of them; use 'all' or 'last'"
        )
    if span in ONLY_PROMPT and tally.paired:
        raise DataError(
            f"{name}: capture.span '{span}' reads only the prompt, which both completions of a pair share: the "
            f"contrast would be zero; use 'generated' or 'answer'"
        )


def _words(value: object, key: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(w, str) and w.strip() for w in value):
        raise DataError(f"{path}: '{key}' must be a list of words, and not an empty one")
    return tuple(value)


def _enough(rows: list, path: Path) -> tuple:
    if len(rows) < MIN_PER_SPLIT:
        raise DataError(f"{path}: {len(rows)} rows; an interval needs at least {MIN_PER_SPLIT}")
    return tuple(rows)


def _file(file: DataFile | None, name: str) -> Path:
    return packaged(name) if file is None else _unchanged(file)


def _unchanged(file: DataFile) -> Path:
    path = Path(file.path)
    try:
        now = file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if now != file.sha256:
        raise DataError(f"{path}: changed since the recipe was read; run the recipe again")
    return path


def _shown(data: Data) -> str:
    file = data.pairs or data.positive
    return file.path if file else "data"
