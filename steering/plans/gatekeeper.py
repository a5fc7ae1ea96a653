"""Gatekeeper: reads the clean prompt for the gates of a session, and asks them for their factors at every pass.

The prompt is read in a pass of its own through the base model, during which nothing is edited and which stops after
the deepest site that a gate reads. It costs about one more prefill, once per text, and it makes what a gate decides
independent of what the plan does.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.steering.errors import BadPlan
from trimtab.steering.gates.base import Gate, GateInput, History, Reading
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.generation import GenerateCall, wrapped
from trimtab.steering.model.hooks import Read, StopForward, hooked
from trimtab.steering.model.positions import TextState, past_length
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Positions
from trimtab.steering.moves.base import Move
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention

PADDING_AGE = -(10**6)


class _Thread(threading.local):
    """The gates in one thread's passes. reading: True while the clean prompt is read, when nothing may be edited.
    inputs: what gates may look at in the present pass. factors: those that were asked in it already."""

    def __init__(self) -> None:
        self.reading, self.inputs, self.factors = False, None, {}

    reading: bool
    inputs: GateInput | None
    factors: dict[Gate, Tensor]


class Gatekeeper:
    """State of the gates of one session. What was read of a text belongs to the text (`TextState`), not to the session,
    so that a cache that is continued later is decided on by its own prompt."""

    def __init__(self, anatomy: Anatomy, steps: Sequence[Intervention]):
        self._anatomy = anatomy
        gated = [(step, step.move.gate) for step in steps if isinstance(step.move, Gated)]
        self._gates = list(dict.fromkeys(gate for _, gate in gated))
        self._readings = tuple(dict.fromkeys(reading for gate in self._gates for reading in gate.reads))
        self._follows = tuple(dict.fromkeys(site for gate in self._gates for site in gate.follows))
        for step, gate in gated:
            _check(anatomy, step, gate)
        self._thread = _Thread()

    @property
    def reading(self) -> bool:
        """True while this thread reads a clean prompt, when nothing may be edited."""
        return self._thread.reading

    @property
    def listeners(self) -> list[tuple[Site, Read]]:
        """Reads of the sites that gates follow token by token."""

        def listener(site: Site) -> Read:
            def read(h: Tensor) -> None:
                if not self.reading and self._thread.inputs is not None:
                    self._thread.inputs.stream[site] = h.float()  # type: ignore[index]

            return read

        return [(site, listener(site)) for site in self._follows]

    def observe(
        self, arguments: Mapping[str, Any], positions: Positions, text: TextState, generation: GenerateCall | None
    ) -> None:
        """A pass over this text begins: read its prompt when that has not been done yet."""
        if not self._gates:
            return
        past = past_length(arguments.get("past_key_values"))
        if text.readings is not None:
            _check_rows(text.readings, len(positions.index))
        elif past == 0:
            text.readings = self._read(arguments, positions)
        else:
            text.readings = self._read(*_whole(generation, positions, past))
        inputs = GateInput(_age(positions), text.readings, {}, text.memory, past)
        self._thread.inputs, self._thread.factors = inputs, {}

    def follow(self, generation: GenerateCall, cache: Any) -> None:
        """Have the gates' memory reordered whenever beams reorder the generation's cache."""

        def reorder(original: Callable[..., Any], rows: Tensor) -> Any:
            for memory in generation.text.memory.values():
                if isinstance(memory, History):
                    memory.reorder(rows)
            return original(rows)

        if self._follows:
            generation.closing.enter_context(wrapped(cache, "reorder_cache", reorder))

    def factor(self, move: Move) -> Tensor | None:
        """`[b s]` for a gated move, asked once per pass; None for a move without a gate."""
        if not isinstance(move, Gated):
            return None
        thread = self._thread
        if thread.inputs is None:
            raise BadPlan("a gated plan was reached before its prompt was read; call the model, not its parts")
        if move.gate not in thread.factors:
            thread.factors[move.gate] = move.gate.factor(thread.inputs)
        return thread.factors[move.gate]

    def _read(self, arguments: Mapping[str, Any], positions: Positions) -> dict[Reading, Tensor]:
        """Readings of the prompts in this pass, from a clean pass over the same tokens."""
        last = positions.index == positions.prompt_length[:, None] - 1
        if not bool(last.any(1).all()):
            raise BadPlan(
                "a gated plan decides on the whole prompt, but this first pass holds only a part of it: generate "
                "without prefill_chunk_size"
            )
        mask = arguments.get("attention_mask")
        if mask is not None and getattr(mask, "ndim", None) != 2:  # one per query, as wide as a static cache
            arguments = {**arguments, "attention_mask": (positions.index >= 0).long()}
        rows = self._clean({reading.site for reading in self._readings}, arguments)
        inside = (positions.index >= 0) & (positions.index < positions.prompt_length[:, None])
        masks = {"last": last, "mean": inside}
        return {reading: _pooled(rows[reading.site], masks[reading.pool]) for reading in self._readings}

    def _clean(self, sites: set[Site], arguments: Mapping[str, Any]) -> dict[Site, Tensor]:
        """Activations `[b s d]` at the sites in a pass with these arguments, without a cache and without edits."""
        activations: dict[Site, Tensor] = {}

        def reader(site: Site) -> Read:
            def read(h: Tensor) -> None:
                activations[site] = h.float()
                if len(activations) == len(sites):
                    raise StopForward

            return read

        if not sites:
            return activations
        clean = {**arguments, "past_key_values": None, "use_cache": False}
        self._thread.reading = True
        try:
            reads = [(site, reader(site)) for site in sites]
            with torch.no_grad(), hooked(self._anatomy, reads=reads), contextlib.suppress(StopForward):
                self._anatomy.base(**clean)
        finally:
            self._thread.reading = False
        return activations


def _age(positions: Positions) -> Tensor:
    """`[b s]`, tokens of the answer before the one that each position writes; padding counts as long before."""
    age = positions.index - (positions.prompt_length[:, None] - 1)
    return torch.where(positions.index >= 0, age, torch.full_like(age, PADDING_AGE))


def _check_rows(readings: Mapping[Reading, Tensor], rows: int) -> None:
    if any(len(read) != rows for read in readings.values()):
        raise BadPlan(
            f"a gated plan met a cache of {rows} rows, but the prompts in it that it read were "
            f"{sorted({len(read) for read in readings.values()})}: run the prompts of all rows inside the block"
        )


def _whole(generation: GenerateCall | None, positions: Positions, past: int) -> tuple[dict[str, Any], Positions]:
    """Arguments of a pass over the whole text of a generation that goes on with a cache, and its positions."""
    rows, columns = len(positions.index), past + positions.index.shape[1]
    ids = None if generation is None else generation.ids
    real = None if generation is None else generation.real(rows, columns)
    if ids is None or real is None or ids.shape[1] != columns:
        raise BadPlan(
            f"a gated plan met a cache of {rows} rows and {past} tokens whose prompts it has not read, so it cannot "
            f"decide on them: run the prompt inside the block too, or give model.generate the ids of the whole text"
        )
    real = real.to(ids.device).bool()
    index = torch.where(real, real.long().cumsum(1) - 1, -1)
    inputs = {
        "input_ids": ids.repeat(rows // len(ids), 1),
        "attention_mask": real.long(),
        "position_ids": index.clamp(min=0),
    }
    return inputs, Positions(index, positions.prompt_length)


def _pooled(h: Tensor, mask: Tensor) -> Tensor:
    """Mean of the tokens in the mask, `[b s d]` and `[b s]` to `[b d]`, in float64 against massive activations."""
    weight = mask.to(h.device, torch.float64)[..., None]
    return ((h.double() * weight).sum(1) / weight.sum(1)).float()


def _check(anatomy: Anatomy, step: Intervention, gate: Gate) -> None:
    """Raises BadPlan or BadSite when a gate does not fit the model, or follows what it would read too late."""
    for reading in gate.reads:
        anatomy.check(reading.site)
    for site, width in gate.widths:
        if anatomy.width(site) != width:
            raise BadPlan(
                f"the gate of {step.site} reads {width} numbers at {site}, but vectors there have {anatomy.width(site)}"
            )
    for site in gate.follows:
        if anatomy.depth(site) >= anatomy.depth(step.site):
            raise BadPlan(
                f"the gate of {step.site} follows {site} token by token, which is not before it in a pass: its "
                f"decision would come too late. Read an earlier block, or hold the decision for the answer"
            )
