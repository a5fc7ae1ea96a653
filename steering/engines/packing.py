"""Packing: a plan for each request, in passes that pack the tokens of many requests into one row.

An engine says before every pass which segments it holds (`begin`); the edits at a site then act on the tokens of the
requests whose plan has that site, each within its own spans. Requests without a plan are not touched, to the bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.steering.errors import CannotPack, SilentNoOp
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import Edit, calls_watched, hooked
from trimtab.steering.model.packed import Segment, packed_positions, starts
from trimtab.steering.model.site import Site
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan


class Host(Protocol):
    """A model as an engine runs it."""

    def check(self, plan: SteeringPlan) -> None:
        """Raises SteeringError for a plan that cannot act in it."""

    def edited(self, site: Site, edit: Edit) -> AbstractContextManager[None]:
        """While the block runs, what passes at the site is edited, `[1 s d]`."""

    def passes_ended(self, ended: Callable[[], None]) -> AbstractContextManager[None]:
        """While the block runs, `ended` after every pass."""


@dataclass(frozen=True)
class AnatomyHost:
    """A model of transformers."""

    anatomy: Anatomy

    def check(self, plan: SteeringPlan) -> None:
        plan.check(self.anatomy)

    def edited(self, site: Site, edit: Edit) -> AbstractContextManager[None]:
        return hooked(self.anatomy, [(site, edit)])

    def passes_ended(self, ended: Callable[[], None]) -> AbstractContextManager[None]:
        return calls_watched(self.anatomy, lambda: None, lambda output: ended(), lambda: None)


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass. segments: whose tokens it holds. steps: at each site, in order, an intervention with the tokens `[1 s]`
    that it acts on."""

    segments: Sequence[Segment]
    steps: dict[Site, list[tuple[Intervention, Bool[Tensor, "1 s"]]]]


class Packing:
    """Steers the packed passes of one model; `plans` holds the plan of each request that has one.

    passes: seen. overflown: requests whose plan made activations that are not finite. A request's plan must have been
    `admit`ted while no pass runs: its sites get their hooks then.
    """

    def __init__(self, host: Host):
        self._host, self._sites = host, dict[Site, ExitStack]()
        self._plans: dict[str, SteeringPlan] = {}
        self._pass: _Pass | None = None
        self._fired: set[Site] = set()
        self.passes = 0
        self.overflown: set[str] = set()

    @contextmanager
    def attached(self) -> Iterator["Packing"]:
        """While the block runs, passes are steered. All hooks are gone afterwards."""
        with ExitStack() as stack:
            stack.enter_context(self._host.passes_ended(self._ended))
            stack.callback(self._detach)
            yield self

    def needs_hooks(self, plan: SteeringPlan) -> bool:
        """True when `admit` will register hooks, so that no pass may run meanwhile."""
        return any(site not in self._sites for site in plan.sites)

    def admit(self, plan: SteeringPlan) -> None:
        """Check that the plan can act in packed passes, and hook its sites. Raises CannotPack, BadPlan, BadSite."""
        check_packable(plan)
        self._host.check(plan)
        for site in plan.sites:
            if site not in self._sites:
                self._sites[site] = stack = ExitStack()
                stack.enter_context(self._host.edited(site, self._edit(site)))

    def steer(self, request: str, plan: SteeringPlan) -> None:
        """This request's tokens are steered by the plan, which was admitted, until `forget`."""
        self._plans[request] = plan

    def forget(self, request: str) -> None:
        """The request has ended."""
        self._plans.pop(request, None)
        self.overflown.discard(request)

    def begin(self, segments: Sequence[Segment], tokens: int, device: torch.device) -> None:
        """A pass of so many tokens with these segments comes next."""
        steps: dict[Site, list[tuple[Intervention, Tensor]]] = {}
        positions = packed_positions(segments, tokens, device)
        for plan, rows in self._rows(segments, tokens, device):
            for step in plan.interventions:
                mask = step.span.mask(positions) & rows
                if step.strength and bool(mask.any()):
                    steps.setdefault(step.site, []).append((step, mask))
        self._pass, self._fired = _Pass(segments, steps), set()
        self.passes += 1

    def _rows(
        self, segments: Sequence[Segment], tokens: int, device: torch.device
    ) -> Iterator[tuple[SteeringPlan, Bool[Tensor, "1 s"]]]:
        """Each plan of the pass once, with the tokens of all requests that have it."""
        rows: dict[SteeringPlan, Tensor] = {}
        for segment, start in zip(segments, starts(segments), strict=True):
            plan = self._plans.get(segment.text)
            if plan is not None:
                mask = rows.setdefault(plan, torch.zeros(1, tokens, dtype=torch.bool))
                mask[0, start : start + segment.length] = True
        return ((plan, mask.to(device)) for plan, mask in rows.items())

    def _edit(self, site: Site) -> Edit:
        def edit(h: Float[Tensor, "1 s d"]) -> Float[Tensor, "1 s d"]:
            if self._pass is None:
                return h
            self._fired.add(site)
            for step, mask in self._pass.steps.get(site, ()):
                h = self._finite(h, step.applied(h, mask))
            return h

        return edit

    def _finite(self, before: Float[Tensor, "1 s d"], after: Float[Tensor, "1 s d"]) -> Float[Tensor, "1 s d"]:
        """`after`, without the edits of requests that it makes infinite or nan: attention would carry a nan to every
        other request of the pass, since 0 times nan is nan. Those requests are in `overflown` then."""
        finite = torch.isfinite(after).all(-1, keepdim=True)
        if self._pass is None or bool(finite.all()):
            return after
        for segment, start in zip(self._pass.segments, starts(self._pass.segments), strict=True):
            here = slice(start, start + segment.length)
            if not bool(finite[0, here].all()):
                self.overflown.add(segment.text)
        return torch.where(finite, after, before)

    def _ended(self) -> None:
        """A pass ran to its end: every site that was to be steered must have been."""
        if self._pass is None:
            return
        silent = [str(site) for site in self._pass.steps if site not in self._fired]
        self._pass = None
        if silent:
            raise SilentNoOp(
                f"{', '.join(silent)} did not run in a packed pass, so its plan did nothing: the model was compiled or "
                f"its passes are replayed from a graph; turn that off"
            )

    def _detach(self) -> None:
        for stack in self._sites.values():
            stack.close()
        self._sites.clear()
        self._pass = None


def check_packable(plan: SteeringPlan) -> None:
    """Raises CannotPack for what a packed pass cannot hold: gates read whole prompts, before anything is steered."""
    if plan.gated:
        raise CannotPack(
            "the plan is gated: a gate reads the whole prompt before it is steered, which a packed pass does not hold; "
            "run it in a batch of its own with plan.on(model)"
        )
