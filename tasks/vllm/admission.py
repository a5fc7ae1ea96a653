"""Admission: from what a request says about steering to versions of the catalog, before vLLM queues it.

This runs in the process that takes requests. References are pinned here, so the process that runs the model reads
versions that never change, however aliases move meanwhile.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trimtab.steering.engines.expression import Steering, Term
from trimtab.steering.engines.vllm.fitting import check_plan, why_not
from trimtab.steering.errors import BadExpression, SteeringError
from trimtab.steering.model.outline import Outline
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.tasks.home import Home
from trimtab.tasks.serving.plans import Plans, Resolved
from trimtab.tasks.serving.settings import Refused, Serving

FIELD = "steering"  # what a request writes in vllm_xargs, or in SamplingParams.extra_args
PINNED = "trimtab"  # what stands in extra_args between the processes; no request may write it
MARK = "trimtab:"  # how the salts of steered prompts begin


@dataclass(frozen=True)
class Pinned:
    """parts: (version, digest of its content, factor) of each plan, in order. digest: of all that."""

    parts: tuple[tuple[str, str, float], ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()[:32]

    def salt(self, own: str | None) -> str:
        """Under which vLLM's prefix cache keeps the prompt. own: the salt that the request brought."""
        return f"{MARK}{self.digest}:{own or ''}"

    @classmethod
    def of(cls, extra: Mapping[str, Any]) -> "Pinned | None":
        """From the extra_args of a request that was admitted; None when it is not steered."""
        parts = extra.get(PINNED)
        return None if parts is None else cls(tuple((str(r), str(d), float(f)) for r, d, f in parts))


class Admission:
    """For one engine. config: its VllmConfig. home: where the catalog lies (None: $TRIMTAB_HOME, else `.trimtab`)."""

    def __init__(self, config: Any, home: str | None = None):
        self._reason = why_not(config)
        try:
            self._outline: Outline | None = Outline.of(config.model_config.hf_config)
        except SteeringError as error:
            self._outline, self._reason = None, self._reason or str(error)
        self._loaded = lru_cache(maxsize=256)(self._load)
        self._plans = Plans(Home.at(home), Serving(str(config.model_config.model)), self._check)

    def pinned(self, extra: Mapping[str, Any]) -> Pinned | None:
        """What steers a request with these extra_args. Raises Refused with the reason, for what cannot be served."""
        steering = self._requested(extra)
        if not steering.terms:
            return None
        if self._reason is not None:
            raise Refused(f"this engine cannot steer: {self._reason}")
        return pinned_parts(self._plans.resolve(steering))

    def plan(self, pinned: Pinned) -> SteeringPlan:
        """The plan of a pinned request, one object for equal ones. Raises Refused when a version is no longer what it
        was."""
        return self._loaded(pinned)

    def _load(self, pinned: Pinned) -> SteeringPlan:
        steering = Steering(tuple(Term(ref, factor) for ref, _, factor in pinned.parts))
        resolved = self._plans.resolve(steering)
        if pinned_parts(resolved) != pinned or resolved.plan is None:
            raise Refused(f"'{resolved.label}' is not what it was when the request came", 503, "server_error")
        return resolved.plan

    @property
    def outline(self) -> Outline | None:
        """Of the engine's model; None when its family is not known."""
        return self._outline

    @property
    def reason(self) -> str | None:
        """Why this engine cannot steer; None when it can."""
        return self._reason

    def _requested(self, extra: Mapping[str, Any]) -> Steering:
        try:
            steering = Steering.parse(extra.get(FIELD))
        except BadExpression as error:
            raise Refused(str(error)) from None
        if steering.kl is not None or steering.governed:
            raise Refused("kl, govern and govern_total need a second, unsteered pass, which vLLM does not run; use "
                          "`trimtab serve`")  # fmt: skip
        return steering

    def _check(self, plan: SteeringPlan) -> None:
        if self._outline is not None:
            check_plan(plan, self._outline)


def pinned_parts(resolved: Resolved) -> Pinned:
    """Versions and factors without the plans themselves, as they travel between processes."""
    return Pinned(tuple((part.ref, part.digest, float(factor)) for part, factor in resolved.parts))
