"""The moves' shelf: what can be done to a vector. One file each."""

from pathlib import Path

from trimtab.steering.moves.base import AffineMap, Move
from trimtab.steering.shelf import Shelf

MOVES: Shelf[Move] = Shelf("move", Move, __name__, Path(__file__).parent)  # type: ignore[type-abstract]

__all__ = ["MOVES", "AffineMap", "Move"]
