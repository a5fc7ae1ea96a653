"""Fitting gates on all heads by gradient descent, many seeds at once: the engine behind causal head gating.

Gates are `sigmoid(theta)`, theta `[seeds layers heads]`. Every seed has a loss of its own and its own gradient
clipping, and Adam works element by element, so fitting seeds together gives the same as fitting each alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Loss = Callable[[Float[Tensor, "seeds layers heads"], int], Float[Tensor, "seeds"]]


@dataclass(frozen=True)
class Stage:
    """Settings of one fit.

    steps: Adam updates. rates: learning rate at the first and last update, linear between. nudge: lambda, the weight
    of the mean over heads of theta (positive: gates towards 1). clip: largest size of theta that still gets a gradient
    from the nudge. norm: largest gradient norm of one seed. dead_zone: clip theta on both sides, as published. A gate
    that an earlier stage moved beyond the clip against the nudge then gets no gradient from the nudge, and almost none
    from the loss because the sigmoid is flat there. It stays where it is, and its role is mislabelled.
    """

    steps: int
    rates: tuple[float, float]
    nudge: float = 0.0
    clip: float = 4.0
    norm: float = 1.0
    dead_zone: bool = False

    def penalty(self, theta: Float[Tensor, "seeds layers heads"]) -> Float[Tensor, "seeds"]:
        """`-lambda mean_heads clipped theta`, what is added to each seed's loss: clipped on the side that the
        nudge pushes towards, or on both sides with `dead_zone`."""
        low = -self.clip if self.dead_zone or self.nudge < 0 else None
        high = self.clip if self.dead_zone or self.nudge >= 0 else None
        return -self.nudge * theta.clamp(low, high).mean((1, 2))

    def rate(self, step: int) -> float:
        """The learning rate of an update, counted from 0."""
        first, last = self.rates
        return first + (last - first) * step / max(1, self.steps - 1)


def start(shape: tuple[int, int, int], seed: int) -> Float[Tensor, "seeds layers heads"]:
    """Logits of random gates, uniform in (0, 1). shape: (seeds, layers, heads). Seed k gets the same gates whatever the
    number of seeds."""
    draws = [torch.rand(shape[1:], generator=torch.Generator().manual_seed(seed + k)) for k in range(shape[0])]
    return torch.logit(torch.stack(draws).clamp(1e-6, 1 - 1e-6))


def fit_gates(
    theta: Float[Tensor, "seeds layers heads"], loss: Loss, stage: Stage
) -> tuple[Float[Tensor, "seeds layers heads"], Float[Tensor, "steps seeds"]]:
    """(theta after the stage, each seed's loss without the penalty at every step `[steps seeds]`). theta: `[seeds
    layers heads]`; it is not changed. loss: of the gates at a step, one number per seed."""
    theta = theta.detach().clone().requires_grad_(True)
    adam = torch.optim.Adam([theta], lr=stage.rates[0])
    trace = []
    for step in range(stage.steps):
        adam.param_groups[0]["lr"] = stage.rate(step)
        losses = loss(torch.sigmoid(theta), step)
        (theta.grad,) = torch.autograd.grad((losses + stage.penalty(theta)).sum(), [theta])
        theta.grad *= (stage.norm / theta.grad.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)).clamp(max=1)
        adam.step()
        trace.append(losses.detach())
    return theta.detach(), torch.stack(trace)


def usable(fitted: np.ndarray) -> np.ndarray:
    """`[seeds]` bool: the seeds whose fit succeeded, or all seeds when none did."""
    return fitted.astype(bool) if fitted.any() else np.ones(len(fitted), bool)
