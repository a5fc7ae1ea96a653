"""Which versions are trusted: with TRIMTAB_TRUST set, only those that a key in it has signed may be loaded."""

import importlib
import os
from typing import Any

from trimtab.store import Artifact
from trimtab.tasks.home import Home

TRUST = "TRIMTAB_TRUST"


def require_trusted(home: Home, artifact: Artifact) -> None:
    """Raises Untrusted when $TRIMTAB_TRUST names public keys and none of them has signed this version."""
    trusted = os.environ.get(TRUST)
    if trusted:
        signing: Any = importlib.import_module("trimtab.tasks.registry.signing")  # needs the extra `sign`
        signing.check_signed(home, artifact.ref, trusted)
