"""What methods that act at many sites share: the name of such a candidate, and its strength at the budget."""

import math
from collections.abc import Sequence

import numpy as np

from trimtab.steering.errors import BadRows
from trimtab.steering.learning.examples import Examples, texts_of
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.pulls import Labels
from trimtab.steering.price.response import responses

SPELLED_OUT = 4  # sites whose names a candidate's name holds


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
