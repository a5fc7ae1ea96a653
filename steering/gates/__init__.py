"""The gates' shelf: when a move acts. One file each."""

from pathlib import Path

from trimtab.steering.gates.base import Gate, GateInput, Reading
from trimtab.steering.shelf import Shelf

GATES: Shelf[Gate] = Shelf("gate", Gate, __name__, Path(__file__).parent)  # type: ignore[type-abstract]

__all__ = ["GATES", "Gate", "Reading", "GateInput"]
