"""Pages on disk, sealed: the last line of a page is the sha256 of all that stands before it, so that `verify` can tell
whether it was changed."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

SEAL = "<!-- sha256 of this page up to here: "


def sealed(text: str) -> str:
    """A page with its seal behind it."""
    return f"{text}{SEAL}{hashlib.sha256(text.encode()).hexdigest()} -->\n"


def write_page(text: str, path: Path) -> Path:
    """Write a page with its seal to `path` and return it; folders are made. It is written beside and renamed: a reader
    never sees half a page, and a failure leaves the previous one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(sealed(text))
        # mkstemp makes files private; a report is to be read by others, as any new file is
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path


def sealed_pages(folder: Path) -> Iterator[tuple[Path, bool]]:
    """(path, is it as it was written) of every report in a folder; those of earlier versions have no seal."""
    for path in sorted(folder.glob("[!.]*.html")):
        text = path.read_bytes().decode("utf-8", "replace")
        if SEAL in text:
            yield path, text == sealed(text.rpartition(SEAL)[0])
