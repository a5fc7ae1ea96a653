"""Session: what lasts while plans are attached to a model. Turns interventions into edits, counts that they fire."""

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab.steering.errors import BadPlan, BadSpan, SilentNoOp
from trimtab.steering.governing.governed import governed
from trimtab.steering.governing.governor import Account, Governor, Ledger
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attachments import attachment
from trimtab.steering.model.generation import Generation, generate_watched
from trimtab.steering.model.hooks import calls_watched, hooked
from trimtab.steering.model.positions import PositionTracker, TextState, columns_of, past_length
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Positions, Span
from trimtab.steering.plans.gatekeeper import Gatekeeper
from trimtab.steering.plans.intervention import Intervention

if TYPE_CHECKING:
    from trimtab.steering.plans.plan import SteeringPlan


TELLING = ("prompt", "generated", "answer", "last")  # spans that tell the prompt from the answer
UNSEEN = (
    "{} forward passes of the model were not seen at its blocks, so nothing was steered: it was compiled before the "
    "plan was attached, and what was compiled ignores hooks. Call torch.compiler.reset() before the block, or attach "
    "first and compile inside; a `forward` that was replaced must run the model's blocks"
)


class _Here(threading.local):
    """What one thread knows of the passes that it runs. generations: calls of generate, the innermost last. passed: the
    blocks ran in this call of the model. fired: steps that did in this pass."""

    def __init__(self) -> None:
        self.generations: list[Generation] = []
        self.text, self.positions = TextState(), None
        self.passed, self.fired = True, []

    positions: Positions | None
    fired: list[int]


class Session:
    """plans: one for every row (a list of one), or one per batch row, None for a row left alone.

    A plan is attached to the model, so it steers what every thread runs while the block is open; threads may run at the
    same time, each has its own positions. forwards: passes seen. fired: per intervention (in order, over all plans),
    passes in which its hook ran.
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
        self._steps = [(row, i) for row, plan in enumerate(plans) if plan for i in plan.interventions if i.strength]
        self._here, self._lock = _Here(), threading.Condition()
        self._generating = self._unseen = self._complete = self.forwards = 0
        self._fired_in_complete = [0] * len(self._steps)
        self.fired = [0] * len(self._steps)
        for plan in plans:
            if plan is not None:
                check_fits(plan, anatomy)

    @contextmanager
    def attached(self) -> "Iterator[Session]":
        """Hooks on while the block runs, and until every generation that began in it has ended. Raises SilentNoOp
        afterwards when one did not fire on every pass."""
        edits = [(step.site, self._edit(k, row, step)) for k, (row, step) in enumerate(self._steps)]
        model = self._anatomy.model
        with ExitStack() as stack:
            stack.enter_context(attachment(model))
            stack.enter_context(generate_watched(model, self))
            if self._account is not None:
                stack.enter_context(governed(model, self._account))
            stack.enter_context(hooked(self._anatomy, edits, self._gates.listeners, watch=self._watch))
            stack.enter_context(calls_watched(self._anatomy, self._call_began, self._passed, self._call_ended))
            stack.callback(self._wait)
            yield self
        self._check()

    @property
    def ledger(self) -> Ledger | None:
        """What the governor asked, spent and held back, per token; None when nothing governs."""
        return None if self._account is None else self._account.ledger

    def generate_started(self, generation: Generation) -> None:
        """`model.generate` was called in this thread."""
        self._here.generations.append(generation)
        with self._lock:
            self._generating += 1
        if self._account is not None:
            self._account.new_answer()

    def inputs_prepared(self, ids: Tensor | None, mask: Tensor | None) -> None:
        """It prepared its next pass."""
        if self._here.generations:
            self._here.generations[-1].prepare(ids, mask)

    def generate_ended(self) -> None:
        """It returned, or failed."""
        self._here.generations.pop()
        with self._lock:
            self._generating -= 1
            self._lock.notify_all()

    def _wait(self) -> None:
        with self._lock:
            if self._generating:
                warnings.warn(
                    "the block ended while another thread was in model.generate: it was kept open until that had "
                    "ended, so that the whole answer is steered; read a streamer inside the block",
                    stacklevel=8,
                )
            self._lock.wait_for(lambda: not self._generating)

    def _call_began(self) -> None:
        self._here.passed = self._gates.reading

    def _call_ended(self) -> None:
        if not self._here.passed:
            self._unseen += 1
            raise SilentNoOp(UNSEEN.format(self._unseen))

    def _watch(self, arguments: Mapping[str, Any]) -> None:
        if self._gates.reading:
            return
        here = self._here
        here.passed, here.fired = True, []
        with self._lock:
            self.forwards += 1
        _check_packing(arguments)
        generation = here.generations[-1] if here.generations else None
        here.text = self._tracker.text_of(arguments) if generation is None else generation.text
        here.positions = self._positions(arguments, here.text, generation)
        if self._account is not None:
            self._account.observe(here.positions)
            if generation is None and past_length(arguments.get("past_key_values")) == 0:
                self._account.new_answer()
        self._gates.observe(arguments, here.positions, here.text, generation)

    def _positions(self, arguments: Mapping[str, Any], text: TextState, generation: Generation | None) -> Positions:
        rows, columns = columns_of(arguments)
        if generation is not None and text.columns is None:
            text.columns = columns
        prepared = None if generation is None else generation.real(rows, columns)
        positions, known = self._tracker.observe(arguments, text, prepared)
        if not known and self._telling:
            raise BadSpan(
                f"the pass goes on with a cache of {columns} tokens whose prompt was not run in this block, so span "
                f"'{self._telling[0]}' cannot tell prompt from answer: run the prompt inside the block, or pass "
                f"prompt_lengths"
            )
        return positions

    @property
    def _telling(self) -> list[Span]:
        return [step.span for _, step in self._steps if step.span.kind in TELLING]

    def _passed(self, output: Any) -> None:
        """A pass ran to its end. Passes that a reader cut short are not counted: later blocks had no turn."""
        if self._gates.reading:
            return
        here = self._here
        with self._lock:
            self._complete += 1
            for k in here.fired:
                self._fired_in_complete[k] += 1
        cache = self._tracker.keep(here.text, output)
        if cache is not None and here.generations and here.generations[-1].cache is None:
            here.generations[-1].cache = cache
            self._gates.follow(here.generations[-1], cache)

    def _check(self) -> None:
        if self._unseen:
            raise SilentNoOp(UNSEEN.format(self._unseen))
        for (_, step), count in zip(self._steps, self._fired_in_complete, strict=True):
            if count != self._complete:
                raise SilentNoOp(
                    f"{step.site} was steered in {count} of {self._complete} forward passes: the model was compiled "
                    f"before the plan was attached, or it skips that module; attach first, then compile"
                )
        self._warn()

    def _warn(self) -> None:
        whole = 0 if self._tracker.given is not None else self._tracker.whole
        if self._steps and not self.forwards:
            warnings.warn("the model ran no pass while the plan was attached, so nothing was steered", stacklevel=7)
        elif self._telling and whole:
            warnings.warn(
                f"{whole} forward passes outside model.generate held whole texts, and all of their tokens counted as "
                f"prompt (span '{self._telling[0]}'): pass prompt_lengths to say where each answer begins",
                stacklevel=7,
            )

    def _edit(self, number: int, row: int, step: Intervention):
        def edit(h: Tensor) -> Tensor:
            if self._gates.reading:
                return h
            self.fired[number] += 1
            self._here.fired.append(number)
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
        positions = self._here.positions
        if positions is None:
            raise SilentNoOp("the blocks ran without the base model's forward; call the model, not its parts")
        mask = step.span.mask(positions)
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


def _check_packing(arguments: Mapping[str, Any]) -> None:
    if arguments.get("cu_seq_lens_q") is not None:
        raise BadSpan(
            "the pass packs several texts into one row (cu_seq_lens_q), where a plan cannot yet tell whose token is "
            "whose: give it padded batches"
        )


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
