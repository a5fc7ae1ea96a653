"""Session: what lasts while plans are attached to a model. Turns interventions into edits, counts that they fire."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab.steering.errors import BadPlan, SilentNoOp
from trimtab.steering.gating import Gatekeeper
from trimtab.steering.intervention import Intervention
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import generate_watched, hooked
from trimtab.steering.model.positions import PositionTracker
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Positions
from trimtab.steering.price.governed import governed
from trimtab.steering.price.governor import Account, Governor, Ledger

if TYPE_CHECKING:
    from trimtab.steering.plan import SteeringPlan


class Session:
    """plans: one for every row (a list of one), or one per batch row, None for a row left alone.

    forwards: passes seen. fired: per intervention (in order, over all plans), passes in which its hook ran.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        plans: "Sequence[SteeringPlan | None]",
        prompt_lengths: Sequence[int] | None = None,
        governor: Governor | None = None,
    ):
        self._account = None if governor is None else Account(governor)
        if governor is not None:  # each row runs twice: steered, and as the base model would have answered
            plans = [*plans, *[None] * len(plans)]
            prompt_lengths = None if prompt_lengths is None else [*prompt_lengths, *prompt_lengths]
        self._anatomy, self._plans = anatomy, plans
        self._tracker = PositionTracker(prompt_lengths)
        self._gates = Gatekeeper(anatomy, [step for plan in plans if plan for step in plan.interventions])
        self._positions: Positions | None = None
        self.forwards = 0
        self._steps = [(row, i) for row, plan in enumerate(plans) if plan for i in plan.interventions if i.strength]
        self.fired = [0] * len(self._steps)
        for plan in plans:
            if plan is not None:
                check_fits(plan, anatomy)

    @contextmanager
    def attached(self) -> "Iterator[Session]":
        """Hooks on while the block runs. Raises SilentNoOp afterwards when one did not fire on every pass."""
        edits = [(step.site, self._edit(k, row, step)) for k, (row, step) in enumerate(self._steps)]
        watched = generate_watched(self._anatomy.model, self._generate_started, self._tracker.generate_ended)
        bounded = nullcontext() if self._account is None else governed(self._anatomy.model, self._account)
        with watched, bounded, hooked(self._anatomy, edits, self._gates.listeners, watch=self._watch):
            yield self
        for (_, step), count in zip(self._steps, self.fired, strict=True):
            if count != self.forwards:
                raise SilentNoOp(
                    f"{step.site} was steered in {count} of {self.forwards} forward passes: the model was compiled "
                    f"before the plan was attached, or it skips that module; attach first, then compile"
                )

    @property
    def ledger(self) -> Ledger | None:
        """What the governor asked, spent and held back, per token; None when nothing governs."""
        return None if self._account is None else self._account.ledger

    def _generate_started(self, columns: int) -> None:
        self._tracker.generate_started(columns)
        if self._account is not None:
            self._account.new_answer()

    def _watch(self, arguments: Mapping[str, Any]) -> None:
        if self._gates.reading:
            return
        self.forwards += 1
        self._positions = self._tracker.observe(arguments)
        if self._account is not None:
            self._account.observe(self._positions)
            if self._tracker.new_text:
                self._account.new_answer()
        self._gates.observe(arguments, self._positions)

    def _edit(self, number: int, row: int, step: Intervention):
        def edit(h: Tensor) -> Tensor:
            if self._gates.reading:
                return h
            self.fired[number] += 1
            mask = self._mask(step, row).to(h.device)
            factor = self._gates.factor(step.move)
            if factor is not None:
                factor = factor.to(h.device)
                mask = mask & (factor != 0)
            if not mask.any():
                return h
            return displaced(h, step, mask, factor)

        return edit

    def _mask(self, step: Intervention, row: int) -> Tensor:
        if self._positions is None:
            raise SilentNoOp("the blocks ran without the base model's forward; call the model, not its parts")
        mask = step.span.mask(self._positions)
        if len(self._plans) == 1:
            return mask
        if mask.shape[0] % len(self._plans):
            raise BadPlan(f"{len(self._plans)} row plans were given but the batch has {mask.shape[0]} rows")
        per_plan = mask.shape[0] // len(self._plans)
        mine = torch.zeros_like(mask)
        mine[row * per_plan : (row + 1) * per_plan] = True
        return mask & mine


def displaced(h: Tensor, step: Intervention, mask: Tensor, factor: Tensor | None = None) -> Tensor:
    """`h + strength * factor * delta(h)` where mask, h elsewhere to the bit. h `[b s d]`, mask and factor `[b s]`."""
    strength = step.strength if factor is None else step.strength * factor[..., None]
    moved = step.move.moved(h.float(), strength).to(h.dtype)
    return moved if bool(mask.all()) else torch.where(mask[..., None], moved, h)


def check_fits(plan: "SteeringPlan", anatomy: Anatomy) -> None:
    """Raises BadPlan or BadSite when a plan does not fit; warns when only the weights differ."""
    for step in plan.interventions:
        anatomy.check(step.site)
        check_width(step.site, step, anatomy)
    made, here = plan.model, anatomy.fingerprint if plan.model else None
    if made is None or here is None or made == here:
        return
    if made.shape != here.shape:
        raise BadPlan(
            f"the plan was made on {made.shape} but this model is {here.shape}; steer the model it was made on"
        )
    warnings.warn(
        "the plan was made on other weights of the same shape; its price and verdict do not hold here",
        stacklevel=4,
    )


def check_width(site: Site, step: Intervention, anatomy: Anatomy) -> None:
    """Raises BadPlan when the move's vectors are not as wide as the site's."""
    want, got = anatomy.width(site), step.move.width
    if got is not None and got != want:
        raise BadPlan(f"{type(step.move).__name__} at {site} has width {got}, but vectors there have {want}")
