"""Remarks in plain JSON: descriptions, tags, notes and deprecations of names and versions."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trimtab.store.catalog.remarks import check_remark
from trimtab.tasks.home import Home


def say(home: Home, ref: str, remarks: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Record (field, text) of a name or version, all or none; returns what was recorded. Raises StoreError."""
    for field, text in remarks:
        check_remark(field, text)
    return [asdict(home.catalog.remark(ref, field, text)) for field, text in remarks]
