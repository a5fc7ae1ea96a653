"""Intervention: move x site x span x strength. The smallest thing that can be done to a model."""

import math
from dataclasses import dataclass, replace

from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, Span
from trimtab.steering.moves.base import Move


@dataclass(frozen=True, eq=False)
class Intervention:
    """`h' = h + strength * move.delta(h)` at `site`, on the tokens of `span`.

    A move that is Gated says itself where its gate reads."""

    site: Site
    move: Move
    span: Span = ALL
    strength: float = 1.0

    @property
    def limit(self) -> float:
        """By what this may be multiplied before its move no longer means what it says; inf when by anything."""
        return self.move.limit / abs(self.strength) if self.strength else math.inf

    def scaled(self, factor: float) -> "Intervention":
        """The same with its strength multiplied."""
        return replace(self, strength=self.strength * factor)
