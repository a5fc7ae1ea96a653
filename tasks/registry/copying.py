"""Copying versions from home to home, with results in plain JSON."""

from dataclasses import asdict
from typing import Any

from trimtab.store.transfer import copy_version
from trimtab.tasks.admin.address import checked_address
from trimtab.tasks.home import Home


def copy_between(ref: str, homes: tuple[Home, Home], captures: bool) -> list[dict[str, Any]]:
    """Copy a version with its lineage from the first home to the second; one entry per version, ancestors first.

    captures: the rows of its captures too. Raises StoreError.
    """
    source, target = homes
    return [asdict(one) for one in copy_version(source.catalog, target.catalog, ref, captures)]


def home_at(text: str) -> Home:
    """The home at an address that somebody wrote. Raises what `--home` does for one that is none."""
    return Home.at(checked_address(text))
