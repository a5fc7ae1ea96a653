"""The fitters' shelf: methods that make plans, from rows of activations or through the model. One file each."""

from pathlib import Path

from trimtab.steering.fitters.base import Fitter, Method, ModelFitter
from trimtab.steering.shelf import Shelf

FITTERS: Shelf[Method] = Shelf("fitter", Method, __name__, Path(__file__).parent)

__all__ = ["FITTERS", "Fitter", "Method", "ModelFitter"]
