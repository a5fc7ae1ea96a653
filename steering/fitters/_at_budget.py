"""What methods of linear response share: directions at sites become candidates that spend the budget at strength 1."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadRows
from trimtab.steering.learning.examples import Examples
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.response import LinearResponse


def candidates(
    anatomy: Anatomy, examples: Examples, priced: LinearResponse, directions: Mapping[Site, Float[Tensor, "d"]]
) -> dict[str, SteeringPlan]:
    """One candidate per site, named by it, whose vector has the length at which `priced` forecasts the budget. Sites
    whose direction moves no logit are left out. Raises BadRows when none is left."""
    plans = {}
    for site, direction in directions.items():
        cost = priced.along([((site, examples.span), direction)]).cost
        if cost > 0 and bool(torch.isfinite(direction).all()):
            vector = (direction.double() * (examples.budget / cost) ** 0.5).float()
            plans[str(site)] = SteeringPlan((Intervention(site, Add(vector), examples.span),), anatomy.fingerprint)
    if not plans:
        raise BadRows(
            f"no vector on span '{examples.span}' at {', '.join(map(str, directions))} changes what the pairs' "
            f"completions cost; act on tokens at or before those that write them"
        )
    return plans
