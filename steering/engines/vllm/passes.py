"""The passes of vLLM's model runner, with each request under its plan.

vLLM packs the tokens of a pass without padding between requests, in the order of the runner's `input_batch`. How many
tokens of each run, how many ran before, and how long its prompt is stand there, also for prompts in chunks, for
prompts whose beginning was found in the prefix cache, and for requests that were preempted and run again.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.steering.engines.packing import Packing
from trimtab.steering.engines.vllm.fitting import check_plan
from trimtab.steering.model.fused import FusedLayout
from trimtab.steering.model.packed import Segment
from trimtab.steering.plans.plan import SteeringPlan

PlanOf = Callable[[Mapping[str, Any]], SteeringPlan | None]  # from a request's extra_args


@dataclass(frozen=True, eq=False)
class FusedHost(FusedLayout):
    """A model as vLLM runs it."""

    def check(self, plan: SteeringPlan) -> None:
        check_plan(plan, self.outline)


class SteeredPasses:
    """Steers the passes of one model runner (vLLM's V1 runner) from when it was made.

    plan_of: the plan that a request's extra_args name, None for none.
    """

    def __init__(self, runner: Any, host: FusedHost, plan_of: PlanOf):
        self._runner, self._plan_of = runner, plan_of
        self._packing = Packing(host)
        self._scheduled: Mapping[str, int] = {}
        self._stack = ExitStack()
        self._stack.enter_context(self._packing.attached())
        self._stack.enter_context(host.passes_begin(self._begin))

    @property
    def overflown(self) -> set[str]:
        """Requests whose plan made activations that are not finite; those edits were taken back."""
        return self._packing.overflown

    def schedule(self, output: Any) -> None:
        """The pass of this SchedulerOutput comes next."""
        for request in output.finished_req_ids:
            self._packing.forget(request)
        for request in output.scheduled_new_reqs:
            sampling = request.sampling_params
            plan = self._plan_of((sampling and sampling.extra_args) or {})
            if plan is not None:
                self._packing.admit(plan)
                self._packing.steer(request.req_id, plan)
        self._scheduled = output.num_scheduled_tokens

    def unscheduled(self) -> None:
        """That pass has run; a warm-up pass may come next, in which nothing is steered."""
        self._scheduled = {}

    def _begin(self) -> None:
        if not self._scheduled:
            return
        batch = self._runner.input_batch
        segments = [
            Segment(request, self._scheduled[request], int(first), int(prompt))
            for request, first, prompt in zip(
                batch.req_ids, batch.num_computed_tokens_cpu, batch.num_prompt_tokens, strict=False
            )
        ]
        tokens = sum(segment.length for segment in segments)
        self._packing.begin(segments, tokens, torch.device(self._runner.device))
