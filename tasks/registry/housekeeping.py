"""Deleting and garbage collection, as people and scripts ask for them; answers are plain JSON."""

import re
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from trimtab.store.housekeeping import collect_garbage, delete
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home

UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def delete_version(home: Home, ref: str) -> dict[str, Any]:
    """Delete a version, and a capture's rows with it. kept: why rows stay, if they do. Raises StoreError when something
    still needs the version."""
    deletion = delete(home.catalog, ref)
    gone, freed = deletion.artifact, 0 if deletion.rows_stay else deletion.artifact.header.get("nbytes", 0)
    return {"ref": gone.ref, "kind": gone.kind, "digest": gone.digest, "bytes": freed, "kept": deletion.rows_stay}


def garbage(home: Home, older_than: str, dry_run: bool = False) -> list[dict[str, Any]]:
    """What was (with `dry_run`: would be) freed. older_than: such as `36h`, `7d` or `2w`. Raises RecipeError."""
    captures = home.captures.root
    return [asdict(freed) for freed in collect_garbage(home.catalog, captures, age_of(older_than), dry_run)]


def age_of(text: str) -> timedelta:
    """`36h`, `7d`, `2w`. Raises RecipeError."""
    match = re.fullmatch(r"(\d{1,4})([hdw])", text)
    if not match:
        raise RecipeError(f"--older-than {text!r}: write a number and h, d or w, for example 7d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
