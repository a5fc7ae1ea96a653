"""trimtab.steering: fit, apply, price and fold steering plans. What a script needs, under one name.

Names are looked up on first use: importing an error or a Site from below must not cost the import of torch. The one
list of them is `__init__.pyi`, which type checkers and editors read too.
"""

import ast
import importlib
from pathlib import Path
from typing import Any


def _public() -> dict[str, tuple[str, str]]:
    """From each public name to the module that defines it, and its name there."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: (node.module or "", alias.name) for node in imports for alias in node.names}


# No name here may be that of a module of this folder: importing the module would hide it.
_WHERE = _public()
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; public names: {', '.join(_WHERE)}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
