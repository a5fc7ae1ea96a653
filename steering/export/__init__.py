"""Export: plans in the files of other tools, and back. One file per format, each with its inverse."""

from pathlib import Path

from trimtab.steering.export.base import About as About
from trimtab.steering.export.base import Format as Format
from trimtab.steering.shelf import Shelf

FORMATS: Shelf[Format] = Shelf("format", Format, __name__, Path(__file__).parent)  # type: ignore[type-abstract]
