"""Icechunk's errors as the store's own, and sessions whose snapshot is known to be readable."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import icechunk
from zarr.core.sync import sync

from trimtab.store.errors import Corrupt, StoreError

T = TypeVar("T")


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Raises Corrupt for what Icechunk and Zarr raise over a repository that is being made, moved, or was damaged.

    what: names the repository in the message.
    """
    try:
        yield
    except FileNotFoundError:  # Zarr's "no group here", which is a ValueError too
        raise
    except (icechunk.IcechunkError, ValueError, KeyError, TypeError) as error:  # the last three: damaged metadata
        raise Corrupt(f"{what} cannot be read: {one_line(error)}.") from error


def sound(session: icechunk.Session) -> icechunk.Session:
    """The same session, once its snapshot has been read.

    Why: over a snapshot that cannot be read, Icechunk's `get` and `list_dir` answer "nothing there", and a catalog
    would look empty. `exists` does fail. Raises Corrupt.
    """
    with readable(f"snapshot {session.snapshot_id}"):
        sync(session.store.exists("zarr.json"))
    return session


def opened(url: str, step: Callable[[], T]) -> T:
    """What `step` returns. Raises StoreError, naming the place, for errors of Icechunk and of the system."""
    try:
        return step()
    except icechunk.IcechunkError as error:
        raise StoreError(
            f"cannot open {url}: {one_line(error)}. Check the address, the credentials and the network."
        ) from error
    except OSError as error:
        raise StoreError(f"cannot open {url}: {error}.") from error


def one_line(error: Exception) -> str:
    """An Icechunk error without its frames and line breaks, at most 300 characters."""
    words = [word for word in str(error).split() if word not in ("x", "|", "`->", "|->")]
    return " ".join(words)[:300]
