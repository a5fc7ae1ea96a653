"""The report of a verdict: one HTML file that opens anywhere, offline, and can be attached to a paper."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.tasks.reporting.page import page


def render(verdict: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The page as text; the same input gives the same bytes.

    verdict: `Verdict.to_json()`, also after a trip through JSON text. provenance: its keys are in
    `reporting/provenance.py`, all optional. Raises ValueError naming a required field that is missing.
    """
    return page(verdict, provenance)


def write_report(verdict: Mapping[str, Any], provenance: Mapping[str, Any], path: Path) -> Path:
    """Write the page to `path` and return it; folders are made. Written beside and renamed: a reader never
    sees half a page, and a failure leaves the previous one."""
    text = render(verdict, provenance)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        # mkstemp makes files private; a report is to be read by others, as any new file is
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path
