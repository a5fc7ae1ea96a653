"""Icechunk storages for folders, memory and S3, and the locks that keep writers of one place apart."""

import atexit
import contextlib
import functools
import os
import threading
import time
from pathlib import Path

import icechunk
from filelock import FileLock

icechunk.set_logs_filter("off")  # it logs to stdout, among the JSON; what it says there it also raises

REST_SECONDS = 0.02

_memory: dict[str, icechunk.Storage] = {}
_memory_locks: dict[str, threading.RLock] = {}
_memory_guard = threading.Lock()


def storage_at(scheme: str, root: str) -> icechunk.Storage:
    """The storage of a place. scheme: "file", "memory" or "s3". root: a folder, a name, or "bucket/prefix"."""
    _rest_at_exit()
    if scheme == "file":
        return icechunk.local_filesystem_storage(root)
    if scheme == "memory":
        with _memory_guard:
            if root not in _memory:
                _memory[root] = icechunk.in_memory_storage()
            return _memory[root]
    return _s3_storage(root)


def forget_memory(root: str) -> None:
    """Drop what lies at a place in memory."""
    with _memory_guard:
        _memory.pop(root, None)


def lock_at(scheme: str, root: str) -> contextlib.AbstractContextManager[object]:
    """Re-entrant per thread; keeps threads and, for a folder, processes apart; nothing on S3."""
    if scheme == "file":
        path = Path(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        return _file_lock(str(path.parent / f".{path.name}.lock"))
    if scheme == "memory":
        with _memory_guard:
            return _memory_locks.setdefault(root, threading.RLock())
    return contextlib.nullcontext()


@functools.cache
def _file_lock(path: str) -> FileLock:
    # one object per path, or a thread that holds the lock would wait for itself
    return FileLock(path)


@functools.cache
def _rest_at_exit() -> None:
    """Icechunk's threads may still hold Python objects of calls that have returned; one that wants the interpreter lock
    while the interpreter ends aborts the process (6 of 1,800 small scripts; with this pause, 0 of 1,400)."""
    atexit.register(time.sleep, REST_SECONDS)


def _s3_storage(root: str) -> icechunk.Storage:
    bucket, _, prefix = root.partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix or None,
        region=region,
        endpoint_url=endpoint,
        allow_http=bool(endpoint and endpoint.startswith("http://")),
        force_path_style=endpoint is not None,  # local servers answer no bucket.host names
        from_env=True,
    )
