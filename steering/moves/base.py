"""The Move contract: *what* is done to a vector, knowing nothing of models, sites, tokens or strengths.

Everywhere in trimtab strength 0 leaves a vector as it is and strength 1 moves it as fitted. There are two kinds of
move: a `Straight` one says its displacement `delta(h)` and goes along it, `h + strength * delta(h)`; a `Turn` says
where it arrives, `moved(h, strength)`, and goes along an arc. A class is either abstract or a method that nobody
overrides; moves vary by being wrapped (`Gated`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove

DrawDirections = Callable[[int], Tensor]  # n -> n random directions, `[n d]`, of any length


@dataclass(frozen=True)
class AffineMap:
    """A displacement that is affine in h: `delta(h) = diagonal * h + left @ (right^T h) + bias`.

    bias: `[d]`. left, right: `[d k]` or None. diagonal: `[d]` or None. What `fold` turns into weights. A move that
    takes any width (Scale) gives bias and diagonal of width 1; `widened` spreads them.
    """

    bias: Float[Tensor, "d"]
    left: Float[Tensor, "d k"] | None = None
    right: Float[Tensor, "d k"] | None = None
    diagonal: Float[Tensor, "d"] | None = None

    @property
    def constant(self) -> bool:
        """True when the displacement does not depend on h."""
        return self.left is None and self.diagonal is None

    def widened(self, d: int) -> "AffineMap":
        """The same for vectors of width d. Raises RuntimeError when the map has another width than 1 or d."""
        diagonal = None if self.diagonal is None else self.diagonal.expand(d)
        return AffineMap(self.bias.expand(d), self.left, self.right, diagonal)

    def matrix(self) -> Float[Tensor, "d d"]:
        """The linear part as a dense matrix M, so that `delta(h) = M h + bias`."""
        d = self.bias.shape[0]
        dense = torch.zeros(d, d) if self.diagonal is None else torch.diag(self.diagonal)
        return dense if self.left is None or self.right is None else dense + self.left @ self.right.T


class Move(ABC):
    """Abstract base; subclasses are frozen dataclasses whose tensor fields are float32 and of width d."""

    @property
    @abstractmethod
    def width(self) -> int | None:
        """d, the width of the vectors this Move takes; None when it takes any."""

    @abstractmethod
    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Displacement at strength 1, for float32 h of any leading shape."""

    @abstractmethod
    def moved(self, h: Float[Tensor, "... d"], strength: float | Tensor = 1.0) -> Float[Tensor, "... d"]:
        """Where h is at this strength: a number, or a tensor that broadcasts over `[... 1]`."""

    @abstractmethod
    def affine(self) -> AffineMap | None:
        """The same displacement as an affine map, or None when it depends on the input in another way."""

    @abstractmethod
    def redirected(self, draw: DrawDirections) -> "Move":
        """A move of the same class, width, rank and size along directions that `draw` gives: its placebo. Raises
        BadMove when the move has no direction."""

    @property
    @abstractmethod
    def limit(self) -> float:
        """The largest strength, on either side, at which the move still means what it says; inf when there is none.

        1 for a projection, a turn to an angle or a bound: at 1 they have arrived, beyond it they overshoot."""


class Straight(Move):
    """A move along its displacement: abstract base of all moves that say `delta`."""

    @final
    def moved(self, h: Float[Tensor, "... d"], strength: float | Tensor = 1.0) -> Float[Tensor, "... d"]:
        """`h + strength * delta(h)`."""
        return h + strength * self.delta(h)


class Turn(Move):
    """A move that keeps the norm of what it moves, at every strength: abstract base of rotations.

    `moved(h, strength)` turns h by `strength` times the angle it turns at strength 1, so |moved(h)| = |h|; strengths
    between 0 and 1 go along the arc.
    """

    @final
    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """`moved(h, 1) - h`, the chord of the arc."""
        return self.moved(h) - h

    @final
    def affine(self) -> None:
        """None: how far a vector turns depends on the vector."""


def turned(columns: Float[Tensor, "d k"], draw: DrawDirections) -> Float[Tensor, "d k"]:
    """The columns carried over to random directions with their lengths and angles to each other: `Q' Q^T columns`, Q
    an orthonormal basis of their span and Q' one of as many drawn directions."""
    basis, within = torch.linalg.qr(columns)
    return torch.linalg.qr(draw(basis.shape[1]).to(columns).T).Q @ within


def check_finite(what: str, tensor: Tensor | None) -> None:
    """Raises BadMove when a field (`what`, for example "Add.vector") is not a tensor of finite float32. None passes."""
    if tensor is None:
        return
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
        kind = getattr(tensor, "dtype", type(tensor).__name__)
        raise BadMove(f"{what} is {kind}, but moves hold float32 tensors, so that a packed plan is the same; cast it")
    bad = tensor.numel() - int(torch.isfinite(tensor).sum())
    if bad:
        raise BadMove(
            f"{what}: {bad} of {tensor.numel()} values are not finite; every token it touches would become NaN. "
            f"Look for them in the rows it was fitted on"
        )
