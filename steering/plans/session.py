"""Session: what lasts while plans are attached to a model. It follows every forward pass and every `model.generate`."""

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from trimtab.steering.errors import BadSpan
from trimtab.steering.governing.governed import governed
from trimtab.steering.governing.governor import Account, Governor, Ledger
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attachments import attachment
from trimtab.steering.model.generation import GenerateCall, generate_watched
from trimtab.steering.model.hooks import calls_watched, hooked
from trimtab.steering.model.positions import PositionTracker, TextState, columns_of, past_length
from trimtab.steering.model.span import Positions, Span
from trimtab.steering.plans._edits import Edits, Firing
from trimtab.steering.plans.gatekeeper import Gatekeeper
from trimtab.steering.plans.intervention import Intervention

NEED_PROMPT_LENGTH = ("prompt", "generated", "answer", "last")  # spans that differ by where the prompt ends


class _Thread(threading.local):
    """What one thread runs. generations: its calls of `generate`, the innermost last. text: that of the present pass.
    reached: the base model's hooks ran in the present call of the model."""

    def __init__(self) -> None:
        self.generations: list[GenerateCall] = []
        self.text, self.reached = TextState(), True

    @property
    def generation(self) -> GenerateCall | None:
        return self.generations[-1] if self.generations else None


class Session:
    """rows: the interventions of every batch row; a single entry is for all rows, an empty one leaves its row alone.

    The hooks sit on the model, so it is steered in every thread while the block is open; each thread has its own
    positions. forwards: passes seen. fired: per intervention that acts (in order, over all rows), passes in which its
    hook ran.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        rows: Sequence[Sequence[Intervention]],
        prompt_lengths: Sequence[int] | None = None,
        governor: Governor | None = None,
    ):
        self._account = None if governor is None else Account(governor)
        if governor is not None:  # each row runs twice: steered, and as the base model would have answered
            rows = [*rows, *[()] * len(rows)]
            prompt_lengths = None if prompt_lengths is None else [*prompt_lengths, *prompt_lengths]
        self._anatomy = anatomy
        self._tracker = PositionTracker(prompt_lengths)
        self._gates = Gatekeeper(anatomy, [step for steps in rows for step in steps])
        self._edits = Edits(rows, self._gates)
        self._firing = Firing(self._edits.steps)
        self._thread, self._generating = _Thread(), 0
        self._lock = threading.Condition()  # of all counts; notified when a generation ends

    @property
    def forwards(self) -> int:
        return self._firing.forwards

    @property
    def fired(self) -> list[int]:
        return self._edits.fired

    @property
    def ledger(self) -> Ledger | None:
        """What the governor asked, spent and held back, per token; None when nothing governs."""
        return None if self._account is None else self._account.ledger

    @contextmanager
    def attached(self) -> "Iterator[Session]":
        """Hooks on while the block runs, and until every generation that began in it has ended. Raises SilentNoOp
        afterwards when one did not fire on every pass."""
        model = self._anatomy.model
        with ExitStack() as stack:
            stack.enter_context(attachment(model))
            stack.enter_context(generate_watched(model, self))
            if self._account is not None:
                stack.enter_context(governed(model, self._account))
            edits = self._edits.by_site()
            stack.enter_context(hooked(self._anatomy, edits, self._gates.listeners, watch=self._pass_began))
            stack.enter_context(calls_watched(self._anatomy, self._call_began, self._pass_ended, self._call_ended))
            stack.callback(self._wait)
            yield self
        self._firing.check()
        self._warn()

    def generate_started(self, generation: GenerateCall) -> None:
        """`model.generate` was called in this thread."""
        self._thread.generations.append(generation)
        with self._lock:
            self._generating += 1
        if self._account is not None:
            self._account.new_answer()

    def inputs_prepared(self, ids: Tensor | None, mask: Tensor | None) -> None:
        """It prepared its next pass."""
        if self._thread.generation is not None:
            self._thread.generation.prepare(ids, mask)

    def generate_ended(self) -> None:
        """It returned, or failed."""
        self._thread.generations.pop()
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
        """Of the model, whose base model is yet to run; a gate's reading calls the base model alone."""
        self._thread.reached = self._gates.reading

    def _call_ended(self) -> None:
        if not self._thread.reached:
            with self._lock:
                self._firing.unseen()

    def _pass_began(self, arguments: Mapping[str, Any]) -> None:
        """Of the base model, called with these arguments."""
        if self._gates.reading:
            return
        thread, here, generation = self._thread, self._edits.here, self._thread.generation
        thread.reached, here.fired = True, []
        with self._lock:  # torch.compile leaves a function with a lock alone; traced, `here` would stay as it was
            self._firing.began()
        _check_packing(arguments)
        thread.text = self._tracker.text_of(arguments) if generation is None else generation.text
        positions = self._positions(arguments, thread.text, generation)
        here.positions = positions
        self._account_for(arguments, positions)
        self._gates.observe(arguments, positions, thread.text, generation)

    def _account_for(self, arguments: Mapping[str, Any], positions: Positions) -> None:
        """Tell the governor of a pass; one by hand that begins without a cache begins an answer."""
        if self._account is None:
            return
        self._account.observe(positions)
        if self._thread.generation is None and past_length(arguments.get("past_key_values")) == 0:
            self._account.new_answer()

    def _positions(self, arguments: Mapping[str, Any], text: TextState, generation: GenerateCall | None) -> Positions:
        rows, columns = columns_of(arguments)
        if generation is not None and text.columns is None:
            text.columns = columns
        prepared = None if generation is None else generation.real(rows, columns)
        positions, prompt_is_known = self._tracker.observe(arguments, text, prepared)
        if not prompt_is_known and self._need_prompt_length:
            raise BadSpan(
                f"the pass goes on with a cache of {columns} tokens whose prompt was not run in this block, so span "
                f"'{self._need_prompt_length[0]}' cannot tell prompt from answer: run the prompt inside the block, or "
                f"pass prompt_lengths"
            )
        return positions

    @property
    def _need_prompt_length(self) -> list[Span]:
        return [step.span for step in self._edits.steps if step.span.kind in NEED_PROMPT_LENGTH]

    def _pass_ended(self, output: Any) -> None:
        """A pass of the base model ran to its end."""
        if self._gates.reading:
            return
        with self._lock:
            self._firing.completed(self._edits.here.fired)
        cache, generation = self._tracker.keep(self._thread.text, output), self._thread.generation
        if cache is not None and generation is not None and generation.cache is None:
            generation.cache = cache
            self._gates.follow(generation, cache)

    def _warn(self) -> None:
        whole = 0 if self._tracker.prompt_lengths is not None else self._tracker.whole
        if self._edits.steps and not self.forwards:
            warnings.warn("the model ran no pass while the plan was attached, so nothing was steered", stacklevel=6)
        elif self._need_prompt_length and whole:
            warnings.warn(
                f"{whole} forward passes outside model.generate held whole texts, and all of their tokens counted as "
                f"prompt (span '{self._need_prompt_length[0]}'): pass prompt_lengths to say where each answer begins",
                stacklevel=6,
            )


def _check_packing(arguments: Mapping[str, Any]) -> None:
    if arguments.get("cu_seq_lens_q") is not None:
        raise BadSpan(
            "the pass packs several texts into one row (cu_seq_lens_q), where `plan.on` cannot tell whose token is "
            "whose: give it padded batches, or use an engine of trimtab.steering.engines"
        )
