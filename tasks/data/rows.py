"""Rows of JSONL and Parquet files: numbered objects, checks of their keys and texts, and repeated rows. Every mistake
is `file:line: what, and what to do`."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from trimtab.tasks.data.parquet import read_parquet
from trimtab.tasks.errors import DataError, did_you_mean

MIN_ROWS = 8
MAX_LINE = 1 << 22
MAX_PROBLEMS = 5


def read_rows(
    path: Path, name: str | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of a `.parquet` file, or of any other as JSONL, few in memory at a time. name: of the file, for
    messages. columns: what the file calls our keys, by key; its other columns are left out. Raises DataError."""
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
        raise DataError(f"{where}: a row is a JSON object, this is {kind_of(value)}")
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
        raise DataError(f"{where}: '{key}' must be text, it is {kind_of(value)}")
    if not value.strip():
        raise DataError(f"{where}: '{key}' is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: '{key}' holds half of a surrogate pair (\\ud8..), which is no character") from None
    return value


def kind_of(value: Any) -> str:
    """A JSON value's type in words, for messages."""
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


FOLD = 2**16


class Repeats:
    """Where each content stood first, by a 64-bit digest of it. That two of a hundred million contents share one has a
    chance of 0.03%.

    The newest lie in a dictionary; every 65536 of them become a sorted run, and runs of like length are merged.
    """

    def __init__(self, fold: int = FOLD) -> None:
        self._fold = fold
        self._new: dict[int, int] = {}
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # digests (sorted) and places

    def before(self, content: bytes, place: int) -> int | None:
        """The place of the same content when it came before; otherwise None, and it is noted with this place."""
        digest = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
        first = self._new.get(digest)
        for digests, places in self._runs if first is None else ():
            at = int(np.searchsorted(digests, np.uint64(digest)))
            if at < len(digests) and int(digests[at]) == digest:
                return int(places[at])
        if first is None:
            self._new[digest] = place
            if len(self._new) >= self._fold:
                self._fold_up()
        return first

    def _fold_up(self) -> None:
        digests = np.fromiter(self._new.keys(), np.uint64, len(self._new))
        places = np.fromiter(self._new.values(), np.int64, len(self._new))
        self._new = {}
        self._runs.append(_sorted(digests, places))
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) > len(self._runs[-2][0]):
            last, previous = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted(*(np.concatenate(both) for both in zip(previous, last, strict=True))))


def _sorted(digests: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(digests, kind="stable")
    return digests[order], places[order]
