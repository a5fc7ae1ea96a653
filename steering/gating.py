"""Gatekeeper: reads the clean prompt for the gates of a session, and asks them at every pass.

The prompt is read by a pass of its own through the base model, with all edits asleep, that stops after the deepest
site any gate reads: about one more prefill, once per text. Its decisions cannot depend on what the plan does.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.steering.errors import BadPlan
from trimtab.steering.gates.base import Gate, Reading, Seen
from trimtab.steering.intervention import Intervention
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import Read, StopForward, hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Positions
from trimtab.steering.moves.base import Move
from trimtab.steering.moves.gated import Gated


class Gatekeeper:
    """State of the gates of one session. reading: True while the clean prompt is read, when nothing may be edited."""

    def __init__(self, anatomy: Anatomy, steps: Sequence[Intervention]):
        self._anatomy = anatomy
        gated = [(step, step.move.gate) for step in steps if isinstance(step.move, Gated)]
        self._gates = list(dict.fromkeys(gate for _, gate in gated))
        self._wanted = tuple(dict.fromkeys(reading for gate in self._gates for reading in gate.reads))
        self._followed = tuple(dict.fromkeys(site for gate in self._gates for site in gate.follows))
        for step, gate in gated:
            _check(anatomy, step, gate)
        self.reading = False
        self._seen: Seen | None = None
        self._factors: dict[Gate, Tensor] = {}

    @property
    def listeners(self) -> list[tuple[Site, Read]]:
        """Reads of the sites that gates follow token by token."""

        def listener(site: Site) -> Read:
            def read(h: Tensor) -> None:
                if not self.reading and self._seen is not None:
                    self._seen.stream[site] = h.float()  # type: ignore[index]

            return read

        return [(site, listener(site)) for site in self._followed]

    def observe(self, arguments: Mapping[str, Any], positions: Positions) -> None:
        """A pass begins: read the prompt when it is a new text, forget the last pass otherwise."""
        if not self._gates:
            return
        past = arguments.get("past_key_values")
        fresh = past is None or int(past.get_seq_length()) == 0
        prompt = self._read(arguments, positions) if fresh else self._known(positions)
        age = positions.index - (positions.prompt_length[:, None] - 1)
        outside = torch.full_like(age, -(10**6))  # padding is before everything
        age = torch.where(positions.index >= 0, age, outside)
        memory = {} if fresh or self._seen is None else self._seen.memory
        self._seen, self._factors = Seen(age, prompt, {}, memory), {}

    def factor(self, move: Move) -> Tensor | None:
        """`[b s]` for a gated move, asked once per pass; None for a move without a gate."""
        if not isinstance(move, Gated):
            return None
        if self._seen is None:
            raise BadPlan("a gated plan was reached before its prompt was read; call the model, not its parts")
        if move.gate not in self._factors:
            self._factors[move.gate] = move.gate.factor(self._seen)
        return self._factors[move.gate]

    def _known(self, positions: Positions) -> Mapping[Reading, Tensor]:
        known = {} if self._seen is None else self._seen.prompt
        rows = {len(read) for read in known.values()}
        if self._seen is None or (rows and rows != {len(positions.index)}):
            raise BadPlan(
                f"a gated plan met a cache of {len(positions.index)} rows whose prompts it has not read (it read "
                f"{sorted(rows) or 'none'}), so it cannot decide on them: run the prompt inside the block too"
            )
        return known

    def _read(self, arguments: Mapping[str, Any], positions: Positions) -> dict[Reading, Tensor]:
        """Readings of the prompts in this pass, from a clean pass over the same tokens."""
        last = positions.index == positions.prompt_length[:, None] - 1
        if not bool(last.any(1).all()):
            raise BadPlan(
                "a gated plan decides on the whole prompt, but this first pass holds only a part of it: generate "
                "without prefill_chunk_size"
            )
        rows = self._clean({reading.site for reading in self._wanted}, arguments)
        inside = (positions.index >= 0) & (positions.index < positions.prompt_length[:, None])
        return {
            reading: _pooled(rows[reading.site], last if reading.pool == "last" else inside) for reading in self._wanted
        }

    def _clean(self, sites: set[Site], arguments: Mapping[str, Any]) -> dict[Site, Tensor]:
        found: dict[Site, Tensor] = {}

        def reader(site: Site) -> Read:
            def read(h: Tensor) -> None:
                found[site] = h.float()
                if len(found) == len(sites):
                    raise StopForward

            return read

        if not sites:
            return found
        clean = {**arguments, "past_key_values": None, "use_cache": False}
        self.reading = True
        try:
            reads = [(site, reader(site)) for site in sites]
            with torch.no_grad(), hooked(self._anatomy, reads=reads), contextlib.suppress(StopForward):
                self._anatomy.base(**clean)
        finally:
            self.reading = False
        return found


def _pooled(h: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen tokens, `[b s d]` and `[b s]` to `[b d]`, in float64 against massive activations."""
    weight = chosen.to(h.device, torch.float64)[..., None]
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
