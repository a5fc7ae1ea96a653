"""The one trainer of all methods: deterministic steps over batches of examples, an optional proximal step, and the best
step kept when something can be held out."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.running.progress import Progress, silent

STAGE = "learning"


@dataclass(frozen=True)
class Training:
    """How parameters are trained.

    steps: of the optimiser. rate: its learning rate, in the parameters' own units. batch: examples per step, drawn
    without replacement until all were seen. optimiser: "adam" or "sgd". last_rate: share of the rate that is left at
    the end, along a cosine. every: steps between looks at what is held out. patience: looks without a new best after
    which training ends. seed: of the order of examples.
    """

    steps: int = 60
    rate: float = 0.05
    batch: int = 8
    optimiser: Literal["adam", "sgd"] = "adam"
    last_rate: float = 1.0
    every: int = 10
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.every < 1 or not self.rate > 0:
            raise SteeringError(
                f"training of {self.steps} steps at rate {self.rate:g} on batches of {self.batch} learns nothing; give "
                f"positive numbers"
            )


@dataclass(frozen=True, eq=False)
class Objective:
    """What is trained for. loss: of the examples with these numbers, to be minimised. after: called with the learning
    rate after each step (a proximal step, or one of a multiplier). score: of what is held out, to be maximised (None:
    the last step is kept)."""

    loss: Callable[[Sequence[int]], Tensor]
    after: Callable[[float], None] | None = None
    score: Callable[[], float] | None = None


def train(
    parameters: Sequence[Tensor],
    objective: Objective,
    examples: int,
    how: Training,
    progress: Progress = silent,
) -> None:
    """Change the parameters in place. Raises SteeringError when the loss is not finite; what was fitted until then is
    lost, since a smaller rate would have found something else."""
    optimiser = _optimiser(parameters, how)
    best = _Best(parameters, objective.score)
    for step, numbers in enumerate(_batches(examples, how)):
        progress(STAGE, step, how.steps)
        rate = how.rate * _schedule(step / how.steps, how.last_rate)
        _one_step(optimiser, objective, numbers, rate)
        if (step + 1) % how.every == 0 and best.looked() >= how.patience:
            break
    best.restore()
    progress(STAGE, how.steps, how.steps)


def _one_step(optimiser: torch.optim.Optimizer, objective: Objective, numbers: Sequence[int], rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss = objective.loss(numbers)
    if not math.isfinite(loss.item()):
        raise SteeringError(f"the loss is {loss.item()}: training has diverged at rate {rate:g}; give a smaller rate")
    loss.backward()
    optimiser.step()
    if objective.after is not None:
        with torch.no_grad():
            objective.after(rate)


def _optimiser(parameters: Sequence[Tensor], how: Training) -> torch.optim.Optimizer:
    each: dict[str, type[torch.optim.Adam] | type[torch.optim.SGD]] = {
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
    }
    if how.optimiser not in each:
        raise SteeringError(f"unknown optimiser '{how.optimiser}'; give {' or '.join(each)}")
    return each[how.optimiser](list(parameters), lr=how.rate)


def _schedule(done: float, last: float) -> float:
    return last + (1 - last) * (1 + math.cos(math.pi * done)) / 2


def _batches(examples: int, how: Training) -> Iterator[list[int]]:
    """`steps` batches: all examples in a random order, then in another."""
    generator, waiting = torch.Generator().manual_seed(how.seed), list[int]()
    for _ in range(how.steps):
        if len(waiting) < min(how.batch, examples):
            waiting = torch.randperm(examples, generator=generator).tolist()
        batch, waiting = waiting[: how.batch], waiting[how.batch :]
        yield batch


class _Best:
    """The parameters of the best look so far."""

    def __init__(self, parameters: Sequence[Tensor], score: Callable[[], float] | None):
        self._parameters, self._score, self._since = parameters, score, 0
        self._top = -math.inf if score is None else score()
        self._values = [one.detach().clone() for one in parameters]

    def looked(self) -> int:
        """Look at what is held out; the number of looks since the best one (0 when nothing is held out)."""
        if self._score is None:
            return 0
        score = self._score()
        if score > self._top:
            self._top, self._since = score, 0
            self._values = [one.detach().clone() for one in self._parameters]
        else:
            self._since += 1
        return self._since

    def restore(self) -> None:
        if self._score is not None:
            with torch.no_grad():
                for one, value in zip(self._parameters, self._values, strict=True):
                    one.copy_(value)
