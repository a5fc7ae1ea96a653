"""JSONL and Parquet data files as checked rows. Every mistake is `file:line: what, and what to do`; a row that would
quietly fit noise (twice the same pair, equal completions, an empty answer) is a mistake too."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from trimtab.tasks.data.parquet import read_parquet
from trimtab.tasks.data.seen import Seen
from trimtab.tasks.errors import DataError, did_you_mean

MIN_ROWS = 8
MAX_LINE = 1 << 22
MAX_PROBLEMS = 5
SPLITS = ("fit", "select", "report")
ROLES = ("system", "user", "assistant")

KEYS = ("prompt", "positive", "negative", "completion", "text", "messages")  # of a row, whatever a file calls them

Prompt = str | tuple[Mapping[str, str], ...]
R = TypeVar("R")


@dataclass(frozen=True)
class PairRow:
    """One prompt answered both ways. prompt: text, chat messages ending with the user's, or None when `positive` and
    `negative` are whole texts."""

    prompt: Prompt | None
    positive: str
    negative: str

    @property
    def identity(self) -> str:
        """What decides the split: the prompt, so that one prompt never lands in two."""
        return canonical(self.prompt) if self.prompt is not None else canonical([self.positive, self.negative])


@dataclass(frozen=True)
class ClassRow:
    """One text of one class: a prompt and its completion, or only a prompt (completion None) that is read as it is."""

    prompt: Prompt
    completion: str | None = None

    @property
    def identity(self) -> str:
        return canonical(self.prompt)


@dataclass(frozen=True)
class Rows(Generic[R]):
    """rows in the order of the file. digest: sha256 of the file's bytes."""

    rows: tuple[R, ...]
    digest: str


def canonical(value: object) -> str:
    """One text for one JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_of(identity: str, shares: Sequence[float], seed: int) -> str:
    """fit, select or report, by hashing. Adding rows moves no other row, and a prompt is always in one split.

    shares: of fit, select and report; they sum to 1.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}\0{identity}".encode()).digest()[:8], "big") / 2**64
    return SPLITS[0] if number < shares[0] else SPLITS[1] if number < shares[0] + shares[1] else SPLITS[2]


def read_pairs(path: Path, name: str | None = None) -> Rows[PairRow]:
    """`{prompt, positive, negative}` or `{positive, negative}` per line. name: of the file, for messages.

    Raises DataError: up to 5 lines, each naming file and line.
    """
    return Rows(tuple(each_pair(path, name)), file_digest(path))


def read_class(path: Path, name: str | None = None) -> Rows[ClassRow]:
    """`{prompt, completion}`, `{text}` or `{messages}` per line. Raises DataError."""
    return Rows(tuple(each_class(path, name)), file_digest(path))


def each_pair(path: Path, name: str | None = None, columns: Mapping[str, str] | None = None) -> Iterator[PairRow]:
    """The rows of `read_pairs`, few in memory at a time. columns: what the file calls our keys, by key; others are left
    out. Raises DataError at the end, or after 5 wrong lines."""
    shapes = set()
    for row in _rows(path, name or str(path), pair_row, columns):
        shapes.add(row.prompt is None)
        yield row
    if len(shapes) > 1:
        raise DataError(f"{name or path}: some rows have a prompt and some do not; give all of them one, or none")


def each_class(path: Path, name: str | None = None, columns: Mapping[str, str] | None = None) -> Iterator[ClassRow]:
    """The rows of `read_class`, few in memory at a time. columns, errors: as for `each_pair`."""
    return _rows(path, name or str(path), class_row, columns)


def read_rows(
    path: Path, name: str | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of a `.parquet` file, or of any other as JSONL, under our keys. Raises DataError."""
    if path.suffix.lower() == ".parquet":
        rows = read_parquet(path, name or str(path), None if columns is None else list(columns.values()))
    else:
        rows = read_jsonl(path, name)
    if columns is None:
        return rows
    return ((number, _under_our_keys(row, columns, f"{name or path}:{number}")) for number, row in rows)


def _under_our_keys(row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """A column that a row lacks is a mistake, as it is in Parquet: left out, a misspelt prompt would be no prompt."""
    for own in columns.values():
        if own not in row:
            raise DataError(f"{where}: data.columns names '{own}', which the row does not have{did_you_mean(own, row)}")
    return {key: row[own] for key, own in columns.items()}


def read_jsonl(path: Path, name: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank, one line in memory at a time. Raises DataError."""
    shown = name or str(path)
    for number, raw in _raw_lines(path, shown):
        text = _decoded(raw, number, shown)
        if text.strip():
            yield number, _object(text, f"{shown}:{number}")


def pair_row(row: Mapping[str, Any], where: str) -> PairRow:
    """A checked PairRow. where: `file:line`, for messages."""
    check_keys(row, ("positive", "negative"), ("prompt",), where)
    prompt = _prompt(row["prompt"], where, "prompt") if "prompt" in row else None
    pair = PairRow(prompt, text_of(row, "positive", where), text_of(row, "negative", where))
    if pair.positive == pair.negative:
        raise DataError(f"{where}: positive and negative are the same text, so the pair says nothing; change one")
    return pair


def class_row(row: Mapping[str, Any], where: str) -> ClassRow:
    """A checked ClassRow. The last message of `messages` is the completion when the assistant wrote it."""
    if "text" in row:
        check_keys(row, ("text",), (), where)
        return ClassRow(text_of(row, "text", where))
    if "messages" in row:
        check_keys(row, ("messages",), (), where)
        return _conversation(row["messages"], where)
    check_keys(row, ("prompt", "completion"), ("text", "messages"), where)
    return ClassRow(_prompt(row["prompt"], where, "prompt"), text_of(row, "completion", where))


def _rows(
    path: Path,
    shown: str,
    parse: Callable[[Mapping[str, Any], str], R],
    columns: Mapping[str, str] | None = None,
) -> Iterator[R]:
    count, lines = 0, Seen()
    problems: list[str] = []
    for number, record in read_rows(path, shown, columns):
        where = f"{shown}:{number}"
        try:
            row = parse(record, where)
            _refuse_repeat(record, lines, number, where)
        except DataError as error:
            problems += error.lines
            if len(problems) >= MAX_PROBLEMS:
                break
            continue
        if not problems:  # nobody needs the rows of a wrong file
            count += 1
            yield row
    if problems:
        raise DataError(problems)
    if not count:
        raise DataError(f"{shown}: the file has no rows; give at least {MIN_ROWS}, one JSON object per line")
    if count < MIN_ROWS:
        raise DataError(f"{shown}: {count} rows are too few to fit, choose and report on; give at least {MIN_ROWS}")


def _refuse_repeat(row: Mapping[str, Any], lines: Seen, number: int, where: str) -> None:
    before = lines.before(canonical(row), number)
    if before is not None:
        raise DataError(f"{where}: the same row as line {before}; a repeated row counts twice, remove it")


def _raw_lines(path: Path, shown: str) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
                if len(raw) > MAX_LINE:
                    raise DataError(f"{shown}:{number}: a line of more than {MAX_LINE >> 20} MiB; one row a line")
                yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error.strerror}") from None


def _decoded(raw: bytes, number: int, shown: str) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{shown}:{number}: this is UTF-16; save it as UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise DataError(f"{shown}:{number}: not UTF-8 (byte 0x{byte:02x} at {error.start}); save it as UTF-8") from None


def _object(text: str, where: str) -> dict[str, Any]:
    def no_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise DataError(f"{where}: '{twice[0]}' is given twice in one object; keep one")
        return dict(items)

    def no_constant(word: str) -> NoReturn:
        raise DataError(f"{where}: {word} is not a JSON value; rows hold text")

    try:
        value = json.loads(text, object_pairs_hook=no_repeats, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or a number too long"
        raise DataError(f"{where}: not JSON: {reason}; each line is one object") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row is a JSON object, this is {_kind(value)}")
    return value


def check_keys(row: Mapping[str, Any], needed: Sequence[str], optional: Sequence[str], where: str) -> None:
    """Raises DataError for a key that is neither needed nor optional, and for a needed one that is missing."""
    keys = (*needed, *optional)
    for key in row:
        if key not in keys:
            raise DataError(f"{where}: unknown key '{key}'{did_you_mean(key, keys)}")
    missing = [key for key in needed if key not in row]
    if missing:
        raise DataError(f"{where}: '{missing[0]}' is missing; a row needs {', '.join(needed)}")


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """A text value that is not blank and can be encoded. Raises DataError."""
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{where}: '{key}' must be text, it is {_kind(value)}")
    if not value.strip():
        raise DataError(f"{where}: '{key}' is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: '{key}' holds half of a surrogate pair (\\ud8..), which is no character") from None
    return value


def _prompt(value: Any, where: str, key: str) -> Prompt:
    if isinstance(value, str):
        return text_of({key: value}, key, where)
    messages = _messages(value, where, key)
    if messages[-1]["role"] != "user":
        raise DataError(f"{where}: the last message of '{key}' is the {messages[-1]['role']}'s; it must be the user's")
    return messages


def _messages(value: Any, where: str, key: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: '{key}' must be text or a list of chat messages, it is {_kind(value)}")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise DataError(f"{where}: message {number} of '{key}' must be an object, it is {_kind(message)}")
        check_keys(message, ("role", "content"), (), f"{where}: message {number} of '{key}'")
        if message["role"] not in ROLES:
            raise DataError(f"{where}: message {number} of '{key}': role {message['role']!r}; use {', '.join(ROLES)}")
        text_of(message, "content", f"{where}: message {number} of '{key}'")
    return tuple(value)


def _conversation(value: Any, where: str) -> ClassRow:
    messages = _messages(value, where, "messages")
    if messages[-1]["role"] != "assistant":
        return ClassRow(messages)
    if len(messages) == 1:
        raise DataError(f"{where}: 'messages' holds only the assistant's answer; put the user's message before it")
    return ClassRow(messages[:-1], messages[-1]["content"])


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        dict: "an object",
        list: "a list",
    }
    if isinstance(value, list) and not value:
        return "an empty list"
    return "null" if value is None else kinds[type(value)]
