"""Intervention: move x site x span x strength. The smallest thing that can be done to a model."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.steering.errors import BadPlan
from trimtab.steering.model.outline import HasSites
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, Span
from trimtab.steering.moves.base import Move


@dataclass(frozen=True, eq=False, init=False)
class Intervention:
    """`h' = h + strength * move.delta(h)` at `site`, on the tokens of `span`.

    site, span: a Site and a Span, or their names: `Intervention("resid_post.12", Add(v), "answer")`. When the move
    acts at all is said by its gate (`Gated`). Raises BadSite, BadSpan or UnknownName for names that are none.
    """

    site: Site
    move: Move
    span: Span = ALL
    strength: float = 1.0

    def __init__(self, site: Site | str, move: Move, span: Span | str = ALL, strength: float = 1.0):
        values = {"site": Site.parse(site), "move": move, "span": Span.parse(span), "strength": strength}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def limit(self) -> float:
        """By what this may be multiplied before its move no longer means what it says; inf when by anything."""
        return self.move.limit / abs(self.strength) if self.strength else math.inf

    def check(self, anatomy: HasSites) -> None:
        """Raises BadSite when the model has no such site, BadPlan when the move's vectors are not as wide as those
        there."""
        anatomy.check(self.site)
        width = anatomy.width(self.site)
        if self.move.width not in (None, width):
            name = type(self.move).__name__
            raise BadPlan(f"{name} at {self.site} has width {self.move.width}, but vectors there have {width}")

    def applied(self, h: Tensor, mask: Tensor, factor: Tensor | None = None) -> Tensor:
        """The move at `strength * factor` where mask is True, h elsewhere to the bit.

        h `[b s d]`, mask and factor `[b s]`."""
        strength = self.strength if factor is None else self.strength * factor[..., None]
        moved = self.move.moved(h.float(), strength).to(h.dtype)
        return moved if bool(mask.all()) else torch.where(mask[..., None], moved, h)

    def scaled(self, factor: float) -> "Intervention":
        """The same with its strength multiplied."""
        return replace(self, strength=self.strength * factor)
