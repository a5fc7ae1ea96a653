"""Localisers: methods that rank heads (and MLPs) by their contribution to an answer. One file each."""

from pathlib import Path

from trimtab.steering.causal.question import Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.localisers.base import Localiser
from trimtab.steering.shelf import Shelf

LOCALISERS: Shelf[Localiser] = Shelf("localiser", Localiser, __name__, Path(__file__).parent)  # type: ignore[type-abstract]

__all__ = ["LOCALISERS", "Localiser", "Question", "Ranking"]
