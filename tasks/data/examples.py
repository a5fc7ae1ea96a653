"""Examples: a recipe's data files as one flat list of texts, each with its class, pair and split.

A row that would quietly fit noise (the same row twice, two equal completions, an empty answer) is a mistake.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from trimtab.store.digests import canonical
from trimtab.tasks.data.remembered import Remembered
from trimtab.tasks.data.rows import MAX_PROBLEMS, MIN_ROWS, Repeats, check_keys, kind_of, read_rows, text_of
from trimtab.tasks.data.sections import Data, Split
from trimtab.tasks.errors import DataError

ROLES = ("system", "user", "assistant")
Prompt = str | tuple[Mapping[str, str], ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """One text of the data, before it is tokenised.

    prompt: text, or chat messages that end with the user's. completion: what answers it; None when the prompt is the
    whole text. label: +1 or -1; 0 where there are no two classes. pair: examples with one number answer one prompt (-1:
    unpaired). split: fit, select or report. concept: what a sentence of a features recipe expresses, "" for none.
    """

    prompt: Prompt
    completion: str | None = None
    label: int = 0
    pair: int = -1
    split: str = ""
    concept: str = ""

    @property
    def size(self) -> int:
        """Characters."""
        prompt = self.prompt if isinstance(self.prompt, str) else "".join(m["content"] for m in self.prompt)
        return len(prompt) + len(self.completion or "")


ExamplePair = tuple[Example, Example]  # the positive one, then the negative one
_EXAMPLES = Remembered[Example](lambda example: example.size)


def examples_of(data: Data) -> tuple[Example, ...]:
    """Every text in the order of the files, positive before negative within a pair.

    Raises DataError when a file is wrong, or changed since the recipe was read.
    """
    return tuple(each_example(data))


def each_example(data: Data) -> Iterator[Example]:
    """The texts of `examples_of`, one in memory at a time. Raises DataError as soon as it is known."""
    data.check_unchanged()
    return _EXAMPLES.each(data.model_dump_json(), lambda: _read_examples(data))


def _read_examples(data: Data) -> Iterator[Example]:
    if data.pairs is not None:
        for number, pair in enumerate(each_pair(Path(data.pairs.path), columns=data.columns)):
            split = _split(data.split, *pair)
            yield from (replace(example, pair=number, split=split) for example in pair)
        return
    assert data.positive is not None and data.negative is not None  # Data refuses anything else
    for file, label in ((data.positive, 1), (data.negative, -1)):
        for example in each_text(Path(file.path), columns=data.columns):
            yield replace(example, label=label, split=_split(data.split, example))


def _split(split: Split, *examples: Example) -> str:
    """By their prompt, so that one prompt is never in two splits; whole texts of a pair have none, and count
    together."""
    prompts = [example.prompt for example in examples]
    whole_pair = len(examples) > 1 and examples[0].completion is None
    return split.of(canonical(prompts if whole_pair else prompts[0]).decode())


def each_pair(path: Path, name: str | None = None, columns: Mapping[str, str] | None = None) -> Iterator[ExamplePair]:
    """Rows `{prompt, positive, negative}` or `{positive, negative}` as pairs of examples, few in memory at a time; they
    have no split yet. name: of the file, for messages. columns: what the file calls our keys, by key.

    Raises DataError at the end, or after 5 wrong rows: a line for each, with file and line.
    """
    whole = set()
    for pair in _each(path, name or str(path), pair_of, columns):
        whole.add(pair[0].completion is None)
        yield pair
    if len(whole) > 1:
        raise DataError(f"{name or path}: some rows have a prompt and some do not; give all of them one, or none")


def each_text(path: Path, name: str | None = None, columns: Mapping[str, str] | None = None) -> Iterator[Example]:
    """Rows `{prompt, completion}`, `{text}` or `{messages}` of one class. Arguments and errors as for `each_pair`."""
    return _each(path, name or str(path), example_of, columns)


def pair_of(row: Mapping[str, Any], where: str) -> ExamplePair:
    """A row with both completions. where: `file:line`. Raises DataError."""
    check_keys(row, ("positive", "negative"), ("prompt",), where)
    prompt = _prompt(row["prompt"], where) if "prompt" in row else None
    positive, negative = (text_of(row, key, where) for key in ("positive", "negative"))
    if positive == negative:
        raise DataError(f"{where}: positive and negative are the same text, so the pair says nothing; change one")
    if prompt is None:
        return Example(positive, None, 1), Example(negative, None, -1)
    return Example(prompt, positive, 1), Example(prompt, negative, -1)


def example_of(row: Mapping[str, Any], where: str) -> Example:
    """A row with one text. The last of `messages` is the completion when the assistant wrote it. Raises DataError."""
    if "text" in row:
        check_keys(row, ("text",), (), where)
        return Example(text_of(row, "text", where))
    if "messages" in row:
        check_keys(row, ("messages",), (), where)
        return _conversation(row["messages"], where)
    check_keys(row, ("prompt", "completion"), ("text", "messages"), where)
    return Example(_prompt(row["prompt"], where), text_of(row, "completion", where))


def _each(
    path: Path, shown: str, parse: Callable[[Mapping[str, Any], str], T], columns: Mapping[str, str] | None
) -> Iterator[T]:
    count, problems, repeats = 0, list[str](), Repeats()
    for number, row in read_rows(path, shown, columns):
        where = f"{shown}:{number}"
        try:
            parsed = parse(row, where)
            _refuse_repeat(row, repeats, number, where)
        except DataError as error:
            problems += error.lines
            if len(problems) >= MAX_PROBLEMS:
                break
            continue
        if not problems:  # nobody needs the rows of a wrong file
            count += 1
            yield parsed
    if problems:
        raise DataError(problems)
    if not count:
        raise DataError(f"{shown}: the file has no rows; give at least {MIN_ROWS}, one JSON object per line")
    if count < MIN_ROWS:
        raise DataError(f"{shown}: {count} rows are too few to fit, choose and report on; give at least {MIN_ROWS}")


def _refuse_repeat(row: Mapping[str, Any], repeats: Repeats, number: int, where: str) -> None:
    before = repeats.before(canonical(row), number)
    if before is not None:
        raise DataError(f"{where}: the same row as line {before}; a repeated row counts twice, remove it")


def _prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str):
        return text_of({"prompt": value}, "prompt", where)
    messages = _messages(value, where, "prompt")
    if messages[-1]["role"] != "user":
        raise DataError(f"{where}: the last message of 'prompt' is the {messages[-1]['role']}'s; it must be the user's")
    return messages


def _messages(value: Any, where: str, key: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: '{key}' must be text or a list of chat messages, it is {kind_of(value)}")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise DataError(f"{where}: message {number} of '{key}' must be an object, it is {kind_of(message)}")
        check_keys(message, ("role", "content"), (), f"{where}: message {number} of '{key}'")
        if message["role"] not in ROLES:
            raise DataError(f"{where}: message {number} of '{key}': role {message['role']!r}; use {', '.join(ROLES)}")
        text_of(message, "content", f"{where}: message {number} of '{key}'")
    return tuple(value)


def _conversation(value: Any, where: str) -> Example:
    messages = _messages(value, where, "messages")
    if messages[-1]["role"] != "assistant":
        return Example(messages)
    if len(messages) == 1:
        raise DataError(f"{where}: 'messages' holds only the assistant's answer; put the user's message before it")
    return Example(messages[:-1], messages[-1]["content"])
