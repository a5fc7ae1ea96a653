"""Nodes of the catalog's repository: list them, read their attributes, add and remove them."""

import asyncio
import json
from collections.abc import Coroutine, Iterable, Sequence
from hashlib import sha256
from typing import Any, TypeVar

import icechunk
import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from trimtab.store.catalog.payload import CHUNK_BYTES
from trimtab.store.catalog.refs import number
from trimtab.store.digests import JSON

KEY = "trimtab"
DOCUMENT = "zarr.json"
T = TypeVar("T")


def names(session: icechunk.Session, path: str) -> list[str]:
    """Names of the nodes directly below `path` ([] when it does not exist)."""
    return [name for name in sync(_list(session.store, path)) if name != DOCUMENT]


def numbers(session: icechunk.Session, path: str) -> list[int]:
    """Numbers of the numbered nodes directly below `path`, ascending."""
    return sorted(filter(None, map(number, names(session, path))))


def attributes(session: icechunk.Session, path: str) -> dict[str, JSON] | None:
    """The "trimtab" attribute of a node: None when there is no such node, {} when the attribute is no JSON object.

    Reads the metadata document itself, since opening nodes through Zarr takes ten times as long in a listing.
    """
    return sync(_attributes(session.store, path))


def attributes_of(session: icechunk.Session, paths: Sequence[str]) -> list[dict[str, JSON] | None]:
    """`attributes` of many nodes at once."""
    return sync(_all(_attributes(session.store, path) for path in paths))


def names_below(session: icechunk.Session, path: str) -> dict[str, list[str]]:
    """name -> names of the nodes directly below path/name, for every name below `path`, at once."""
    above = names(session, path)
    below = sync(_all(_list(session.store, f"{path}/{name}") for name in above))
    return {name: [node for node in nodes if node != DOCUMENT] for name, nodes in zip(above, below, strict=True)}


def key_path(key: str) -> str:
    """The path of the note that a stage key gives content which was published under another key."""
    return f"keys/{sha256(key.encode()).hexdigest()}"


def add_array(session: icechunk.Session, path: str, record: dict[str, JSON], payload: np.ndarray) -> None:
    """A new uint8 array node with `record` in its attributes."""
    array = zarr.create_array(
        session.store,
        name=path,
        shape=payload.shape,
        chunks=(max(1, min(len(payload), CHUNK_BYTES)),),
        dtype="u1",
        fill_value=0,
        dimension_names=("byte",),
        attributes={KEY: record},
    )
    if len(payload):
        array[:] = payload


def add_group(session: icechunk.Session, path: str, record: dict[str, JSON]) -> None:
    """A new group node with `record` in its attributes."""
    zarr.create_group(session.store, path=path, attributes={KEY: record})


def remove(session: icechunk.Session, path: str) -> None:
    """Take a node away, with everything below it."""
    sync(session.store.delete_dir(path))


def open_payload(session: icechunk.Session, path: str) -> "zarr.Array[Any]":
    """The array of `add_array`, for reading."""
    return zarr.open_array(session.store, path=path, mode="r")


async def _all(steps: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    return await asyncio.gather(*steps)


async def _attributes(store: icechunk.IcechunkStore, path: str) -> dict[str, JSON] | None:
    raw = await store.get(f"{path}/{DOCUMENT}", default_buffer_prototype())
    return None if raw is None else _record(raw.to_bytes())


def _record(raw: bytes) -> dict[str, JSON]:
    try:
        record = json.loads(raw)["attributes"][KEY]
    except (ValueError, KeyError, TypeError, RecursionError):  # not written by a publisher
        return {}
    return record if isinstance(record, dict) else {}


async def _list(store: icechunk.IcechunkStore, path: str) -> list[str]:
    return [name async for name in store.list_dir(path)]
