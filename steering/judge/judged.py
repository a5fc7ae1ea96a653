"""Judged: one competitor of a judgement, measured."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from trimtab.steering.judge.verdict import Contender
from trimtab.steering.plans.plan import SteeringPlan


@dataclass(frozen=True, eq=False)
class Judged:
    """A competitor with what the next steps need: its dosed plan (None for a prompt) and its margins `[n]`, one per
    held-out pair, nats per token."""

    contender: Contender
    plan: SteeringPlan | None
    margins: Float[np.ndarray, "n"]
