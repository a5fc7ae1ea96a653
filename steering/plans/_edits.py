"""The interventions of a session as edits of activations (which tokens of which rows, and how far), and whether each of
them acted in every forward pass: a hook that does not fire steers nothing, and nothing else would show it."""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trimtab.steering.errors import BadPlan, SilentNoOp
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Positions
from trimtab.steering.plans.gatekeeper import Gatekeeper
from trimtab.steering.plans.intervention import Intervention


class PassState(threading.local):
    """One thread's forward pass. positions: of its tokens. fired: numbers of the interventions whose hooks ran in it.

    Threads may run the model at the same time, so each has its own.
    """

    def __init__(self) -> None:
        self.positions, self.fired = None, []

    positions: Positions | None
    fired: list[int]


class Edits:
    """steps: the interventions that act, all rows' together. fired: for each of them, passes in which its hook ran.

    rows: the interventions of every batch row; a single entry is for all rows, an empty one leaves its row alone.
    """

    def __init__(self, rows: Sequence[Sequence[Intervention]], gates: Gatekeeper):
        self._n_rows, self._gates = len(rows), gates
        self._steps = [(row, step) for row, steps in enumerate(rows) for step in steps if step.strength]
        self.here = PassState()
        self.fired = [0] * len(self._steps)

    @property
    def steps(self) -> list[Intervention]:
        return [step for _, step in self._steps]

    def by_site(self) -> list[tuple[Site, Callable[[Tensor], Tensor]]]:
        """Each intervention as a function of the activations `[b s d]` at its site, in order."""
        return [(step.site, self._edit(k, row, step)) for k, (row, step) in enumerate(self._steps)]

    def _edit(self, number: int, row: int, step: Intervention) -> Callable[[Tensor], Tensor]:
        def edit(h: Tensor) -> Tensor:
            if self._gates.reading:
                return h
            self.fired[number] += 1
            self.here.fired.append(number)
            mask = self._mask(step, row).to(h.device)
            factor = self._gates.factor(step.move)
            if factor is not None:
                factor = factor.to(h.device)
                mask = mask & (factor != 0)
            return step.applied(h, mask, factor) if mask.any() else h

        return edit

    def _mask(self, step: Intervention, row: int) -> Tensor:
        """`[b s]`, True where the intervention acts: on the span's tokens of its own rows."""
        if self.here.positions is None:
            raise SilentNoOp("the blocks ran without the base model's forward; call the model, not its parts")
        mask = step.span.mask(self.here.positions)
        if self._n_rows == 1:
            return mask
        if mask.shape[0] % self._n_rows:
            raise BadPlan(f"{self._n_rows} row plans were given but the batch has {mask.shape[0]} rows")
        copies = mask.shape[0] // self._n_rows  # beams of one row stand together
        own_rows = torch.zeros_like(mask)
        own_rows[row * copies : (row + 1) * copies] = True
        return mask & own_rows


UNSEEN = (
    "{} forward passes of the model were not seen at its blocks, so nothing was steered: it was compiled before the "
    "plan was attached, and what was compiled ignores hooks. Call torch.compiler.reset() before the block, or attach "
    "first and compile inside; a `forward` that was replaced must run the model's blocks"
)


class Firing:
    """forwards: passes that began. Of those that ran to their end it is counted in how many each hook ran; a pass that
    a reader cut short had no turn for later blocks, so it does not count. Threads share it: tell it under a lock."""

    def __init__(self, steps: Sequence[Intervention]):
        self._steps = steps
        self._complete, self._fired, self._unseen = 0, [0] * len(steps), 0
        self.forwards = 0

    def began(self) -> None:
        """A pass began at the base model."""
        self.forwards += 1

    def completed(self, fired: Sequence[int]) -> None:
        """A pass ran to its end; these interventions' hooks ran in it."""
        self._complete += 1
        for number in fired:
            self._fired[number] += 1

    def unseen(self) -> None:
        """The model returned without having run its base model's hooks. Raises SilentNoOp."""
        self._unseen += 1
        raise SilentNoOp(UNSEEN.format(self._unseen))

    def check(self) -> None:
        """Raises SilentNoOp when a pass was not seen, or a hook did not fire in every complete one."""
        if self._unseen:
            raise SilentNoOp(UNSEEN.format(self._unseen))
        for step, count in zip(self._steps, self._fired, strict=True):
            if count != self._complete:
                raise SilentNoOp(
                    f"{step.site} was steered in {count} of {self._complete} forward passes: the model was compiled "
                    f"before the plan was attached, or it skips that module; attach first, then compile"
                )
