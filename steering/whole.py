"""Files and folders that are written whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path`, at which the block writes a file or a folder; it is renamed to `path` when the block ends.

    A process that is killed, or a block that raises, leaves no half of it. A file at `path` is replaced, of a folder
    only an empty one (OSError otherwise). Of two writers of one path one wins whole.
    """
    target = path.absolute()  # so that `.` has a name too
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        yield part
        if part.is_dir() and target.is_dir():
            target.rmdir()
        part.replace(target)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
