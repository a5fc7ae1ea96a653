"""What methods that fit at the budget share: plans that are forecast to spend it at strength 1, and their names."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadRows
from trimtab.steering.learning.examples import Examples, texts_of
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.pulls import Labels
from trimtab.steering.price.response import LinearResponse, responses

CHOICES = ("best", "random")
SPELLED_OUT = 4  # sites whose names a candidate's name holds


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


def name_of_sites(sites: Sequence[Site]) -> str:
    """`resid_post.8+resid_post.12`; from five sites on `resid_post at 30 blocks`, or `z at 48 heads`."""
    if len(sites) <= SPELLED_OUT:
        return "+".join(map(str, sites))
    points = "+".join(dict.fromkeys(site.point for site in sites))
    what = "heads" if all(site.head is not None for site in sites) else "blocks"
    return f"{points} at {len(sites)} {what}"


def spending(anatomy: Anatomy, examples: Examples, plan: SteeringPlan) -> SteeringPlan:
    """The plan at the strength at which its linear response forecasts the budget. Raises BadRows when it moves no
    logit."""
    texts = texts_of(examples.held_out or examples.pairs)
    (along,) = responses(anatomy.model, texts, [plan], Labels(1, examples.seed))
    strength = along.forecast(np.zeros(len(texts))).strength(examples.budget)
    if not math.isfinite(strength):
        raise BadRows(f"the plan at {name_of_sites(plan.sites)} moves no logit on span '{examples.span}'")
    return plan.scaled(strength)


def chosen_heads(ranked: Sequence[Site], count: int, choice: str, seed: int) -> list[Site]:
    """`count` heads, by block. ranked: all heads, the best first. choice: `best`, or `random`, which is the control of
    the first: heads that are not among the best."""
    best, others = ranked[:count], ranked[count:]
    if choice == "best" or not others:
        return sorted(best)
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return sorted(others[k] for k in order[:count].tolist())
