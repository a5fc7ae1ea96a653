"""trimtab: steering vectors with a price. `trimtab.load("name@prod")` loads what was published.

Everything else lies in `trimtab.steering` (models, contrasts, fitters, plans, prices) and `trimtab.store` (activations
and the catalog). Importing `trimtab` imports nothing else; `load` is looked up when it is first used.
"""

import importlib
from typing import Any

_WHERE = {"load": "trimtab.tasks.load"}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(
            f"module 'trimtab' has no attribute '{name}'; it has {', '.join(_WHERE)}; trimtab.steering and "
            f"trimtab.store are packages to import"
        )
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
