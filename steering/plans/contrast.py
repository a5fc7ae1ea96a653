"""Contrast: positive and negative rows per Site. All that an activation-only Fitter eats."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.site import Site


@dataclass(frozen=True, eq=False)
class Pair:
    """Rows at one site. positive `[n d]`, negative `[m d]`, float32; row i is of one prompt in a paired contrast."""

    positive: Float[Tensor, "n d"]
    negative: Float[Tensor, "m d"]


@dataclass(frozen=True, eq=False)
class Contrast:
    """sites: rows per site. paired: row i of both classes belong to one prompt."""

    sites: Mapping[Site, Pair]
    paired: bool = True

    def __post_init__(self) -> None:
        for site, pair in self.sites.items():
            (n, d), (m, e) = pair.positive.shape, pair.negative.shape
            if d != e:
                raise SteeringError(f"contrast at {site}: positive rows have width {d}, negative {e}; they must agree")
            if min(n, m) < 2:
                raise SteeringError(f"contrast at {site}: {n} positive and {m} negative rows; a fit needs 2 of each")
            if self.paired and n != m:
                raise SteeringError(f"contrast at {site}: paired, but {n} positive and {m} negative rows")
