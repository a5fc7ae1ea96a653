"""Gated: any move, acting only where a gate is open."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.gates.base import Gate
from trimtab.steering.moves.base import DrawDirections, Move


@dataclass(frozen=True, eq=False)
class Gated(Move):
    """`h' = h + strength * factor * move.delta(h)`, factor from 0 (closed) to 1 (open) per row and token.

    The gate looks at the prompt, which a move does not know, so the session asks it and multiplies the strength;
    `delta` is that of the wrapped move, as where the gate is open. Raises BadMove for a gate around a gate: join the
    two with AllOf or AnyOf, then the order of wrapping cannot matter.
    """

    move: Move
    gate: Gate

    def __post_init__(self) -> None:
        if isinstance(self.move, Gated):
            raise BadMove("a gated move is gated once; join two gates with AllOf(first, second) or AnyOf")

    @property
    def width(self) -> int | None:
        return self.move.width

    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.move.delta(h)

    def moved(self, h: Float[Tensor, "... d"], strength: float | Tensor = 1.0) -> Float[Tensor, "... d"]:
        return self.move.moved(h, strength)

    def affine(self) -> None:
        """What a prompt decides is not in the weights."""

    def redirected(self, draw: DrawDirections) -> "Gated":
        """The wrapped move in another direction, under the same gate."""
        return Gated(self.move.redirected(draw), self.gate)

    @property
    def limit(self) -> float:
        return self.move.limit


def ungated(move: Move) -> Move:
    """The move without its gate."""
    return move.move if isinstance(move, Gated) else move


def regated(old: Move, new: Move) -> Move:
    """The new move under the old one's gate, if it had one."""
    return Gated(new, old.gate) if isinstance(old, Gated) else new
