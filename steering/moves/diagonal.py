"""Diagonal: scale and shift every coordinate by itself. `T(h) = w * h + b`, so `delta(h) = (w - 1) * h + b`."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadMove
from trimtab.steering.moves.base import AffineMap, DrawDirections, Straight, check_finite, turned


@dataclass(frozen=True, eq=False)
class Diagonal(Straight):
    """weight, bias: `[d]`, by which each coordinate is multiplied and what is then added, at strength 1.

    What AcT and LinEAS fit: coordinate by coordinate, from one distribution of activations to another. With weight 1
    it is Add, with one weight for all and no bias Scale, with weight 0 it puts bias in the place of the vector. Raises
    BadMove on shapes that do not belong together.
    """

    weight: Float[Tensor, "d"]
    bias: Float[Tensor, "d"]

    def __post_init__(self) -> None:
        if self.weight.ndim != 1 or self.weight.shape != self.bias.shape:
            raise BadMove(
                f"Diagonal takes weight and bias [d], got {list(self.weight.shape)} and {list(self.bias.shape)}"
            )
        check_finite("Diagonal.weight", self.weight)
        check_finite("Diagonal.bias", self.bias)

    @property
    def width(self) -> int:
        return self.bias.shape[-1]

    def delta(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return (self.weight - 1).to(h.device) * h + self.bias.to(h.device)

    def affine(self) -> AffineMap:
        return AffineMap(self.bias, diagonal=None if bool((self.weight == 1).all()) else self.weight - 1)

    def redirected(self, draw: DrawDirections) -> "Diagonal":
        """Changes of the weights and biases as long as they are, and at the same angle to each other, elsewhere."""
        weight, bias = turned(torch.stack([self.weight - 1, self.bias], dim=1), draw).T.contiguous()
        return Diagonal(1 + weight, bias.contiguous())

    @property
    def limit(self) -> float:
        """At 1 the map has been applied; without weights it is Add."""
        return math.inf if bool((self.weight == 1).all()) else 1.0
