"""Deleting versions and collecting garbage, with results in plain JSON."""

import re
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from trimtab.store.housekeeping import collect_garbage, delete
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home

UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def delete_version(home: Home, ref: str) -> dict[str, Any]:
    """Delete a version, and a capture's rows with it.

    Returns ref, kind, digest, `bytes` freed, and in `kept` why the rows of a capture stay, empty when they do not.
    Raises StoreError for an unknown version, or when another version or an alias still needs it."""
    deletion = delete(home.catalog, ref)
    gone, freed = deletion.artifact, 0 if deletion.rows_stay else deletion.artifact.header.get("nbytes", 0)
    return {"ref": gone.ref, "kind": gone.kind, "digest": gone.digest, "bytes": freed, "kept": deletion.rows_stay}


def garbage(home: Home, older_than: str, dry_run: bool = False) -> list[dict[str, Any]]:
    """Free what nothing needs and is older than this; returns what was freed, or with `dry_run` what would be.

    older_than: such as `36h`, `7d` or `2w`. Raises RecipeError for other text.
    """
    captures = home.captures.root
    return [asdict(freed) for freed in collect_garbage(home.catalog, captures, age_of(older_than), dry_run)]


def age_of(text: str) -> timedelta:
    """A time such as `36h`, `7d` or `2w`. Raises RecipeError for other text."""
    match = re.fullmatch(r"(\d{1,4})([hdw])", text)
    if not match:
        raise RecipeError(f"--older-than {text!r}: write a number and h, d or w, for example 7d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
