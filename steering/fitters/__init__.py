"""The fitters' shelf: methods that make a plan from rows of activations. One file each."""

from pathlib import Path

from trimtab.steering.fitters.base import Fitter
from trimtab.steering.shelf import Shelf

FITTERS: Shelf[Fitter] = Shelf("fitter", Fitter, __name__, Path(__file__).parent)  # type: ignore[type-abstract]

__all__ = ["FITTERS", "Fitter"]
