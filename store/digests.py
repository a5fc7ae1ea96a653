"""Canonical bytes and sha256 of JSON values and arrays. Two equal things have one digest on every machine."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from trimtab.store.errors import Invalid

JSON: TypeAlias = (
    Any  # None, bool, int, finite float, str, lists and string-keyed dicts of these; `canonical` checks it
)


def canonical(value: object, what: str = "value") -> bytes:
    """UTF-8 JSON with sorted keys, no spaces and no NaN.

    Raises Invalid when `value` is not JSON (`what` names it in the message).
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"{what} is not plain JSON ({error}); use str, int, finite float, list, dict.") from None


def plain(value: object, what: str = "value") -> JSON:
    """`value` as it would come back from a JSON file: tuples become lists, mappings dicts, numpy's numbers Python's.

    Raises Invalid when it is not JSON (`what` names it in the message).
    """
    return json.loads(canonical(_thaw(value, what), what))


def _thaw(value: object, what: str) -> object:
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            # json would turn 1 into "1", and two different headers into one digest
            raise Invalid(f"{what} has the key {wrong[0]!r}, which is not a string; JSON objects need string keys.")
        return {key: _thaw(item, what) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_thaw(item, what) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def json_digest(value: object, what: str = "value") -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value, what)).hexdigest()


def array_bytes(array: np.ndarray) -> memoryview:
    """The bytes of `array` in C order, little-endian; a view where it lies in memory like that."""
    array = np.ascontiguousarray(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


def array_digest(array: np.ndarray) -> str:
    """sha256 (hex) of dtype, shape and bytes."""
    return pieces_digest(array.dtype, array.shape, [array])


def pieces_digest(dtype: "np.dtype[Any]", shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> str:
    """`array_digest` of an array of this dtype and shape that comes in pieces along its first axis."""
    head = canonical({"dtype": dtype.newbyteorder("<").str, "shape": list(shape)})
    digest = hashlib.sha256(head)
    for piece in pieces:
        digest.update(array_bytes(piece))
    return digest.hexdigest()


def texts_digest(pieces: Iterable[np.ndarray]) -> str:
    """`json_digest` of one list of texts that comes in pieces (arrays of str)."""
    digest, between = hashlib.sha256(b"["), b""
    for piece in pieces:
        if len(piece):
            digest.update(between + canonical(piece.tolist())[1:-1])
            between = b","
    digest.update(b"]")
    return digest.hexdigest()


def frozen_json(value: Mapping[str, JSON] | None, what: str) -> dict[str, JSON]:
    """A copy of a JSON object as `plain` gives it ({} for None). Raises Invalid."""
    copy: dict[str, JSON] = plain(dict(value or {}), what)
    return copy
