"""Where this user's cache lies: what can be made again from what it was made of."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$TRIMTAB_CACHE, else $XDG_CACHE_HOME/trimtab, else ~/.cache/trimtab."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TRIMTAB_CACHE") or Path(base) / "trimtab")
