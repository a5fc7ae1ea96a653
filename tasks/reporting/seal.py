"""A report says what it was: its last line is the sha256 of all that stands before it, so that `verify` can tell."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

SEAL = "<!-- sha256 of this page up to here: "


def sealed(text: str) -> str:
    """A page with its seal behind it."""
    return f"{text}{SEAL}{hashlib.sha256(text.encode()).hexdigest()} -->\n"


def sealed_pages(folder: Path) -> Iterator[tuple[Path, bool]]:
    """(path, is it as it was written) of every report in a folder; those of earlier versions have no seal."""
    for path in sorted(folder.glob("[!.]*.html")):
        text = path.read_bytes().decode("utf-8", "replace")
        if SEAL in text:
            yield path, text == sealed(text.rpartition(SEAL)[0])
