"""Plans that requests name: looked up in the catalog, loaded once per version, added up.

An alias is looked up again after `Limits.refresh` seconds. When it has moved, the next request gets the new version;
those that run keep the plan they began with. While the catalog cannot be read, what was read last goes on.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add

from trimtab.steering.engines.expression import Steering, Term
from trimtab.steering.errors import SteeringError
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.store import StoreError
from trimtab.store.errors import Invalid, NotFound
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.features.views import pinned, split_ref
from trimtab.tasks.home import Home
from trimtab.tasks.plans.steer import steering_of
from trimtab.tasks.registry.trust import require_trusted
from trimtab.tasks.serving.settings import Refused, Serving


@dataclass(frozen=True, eq=False)
class Published:
    """A version that a reference named. ref: pinned. looked: when, seconds of the monotonic clock."""

    ref: str
    digest: str
    plan: SteeringPlan
    looked: float


@dataclass(frozen=True, eq=False)
class Resolved:
    """What steers a request. parts: (version, factor) of each term. plan: their sum, None when nothing steers."""

    request: Steering
    parts: tuple[tuple[Published, float], ...] = ()
    plan: SteeringPlan | None = None

    @property
    def label(self) -> str:
        """The pinned versions with their factors, as an expression."""
        return " + ".join(str(Term(part.ref, factor)) for part, factor in self.parts)

    @property
    def digests(self) -> str:
        return "+".join(part.digest for part, _ in self.parts)

    def scaled(self, strength: float) -> "Resolved":
        """The same, every factor multiplied."""
        parts = tuple((part, factor * strength) for part, factor in self.parts)
        return Resolved(self.request, parts, None if self.plan is None else self.plan.scaled(strength))


class Plans:
    """The plans of one home that act on one model. check: raises SteeringError for a plan that cannot act on it."""

    def __init__(self, home: Home, serving: Serving, check: Callable[[SteeringPlan], None]):
        self._home, self._serving, self._check = home, serving, check
        self._current: dict[str, Published] = {}
        self._sums: dict[tuple[tuple[str, float], ...], SteeringPlan] = {}
        self._lock = threading.Lock()

    def resolve(self, steering: Steering) -> Resolved:
        """The versions that the terms name now. Raises Refused for what cannot be steered by."""
        with self._lock:
            parts = tuple((self._published(term.ref), term.factor) for term in steering.terms)
            for part, factor in parts:
                self._check_strength(part, factor)
            return Resolved(steering, parts, self._sum(parts) if parts else None)

    def check(self, ref: str) -> None:
        """Raises Refused when a plan cannot be served."""
        with self._lock:
            self._published(ref)

    def listed(self) -> list[str]:
        """References that requests may name: those given, or every plan of the catalog."""
        if self._serving.plans:
            return list(self._serving.plans)
        inventory = self._home.catalog.inventory("plan")
        names = {artifact.name for artifact in inventory.artifacts}
        return sorted(names | {f"{name}@{alias}" for name in names for alias in inventory.aliases.get(name, {})})

    def _check_strength(self, part: Published, factor: float) -> None:
        most = min(self._serving.limits.strength, part.plan.limit)
        if abs(factor) > most:
            raise Refused(f"{factor:g} times {part.ref}: at most {most:g} times its published strength is served")

    def _published(self, ref: str) -> Published:
        if self._serving.plans and ref not in self._serving.plans:
            raise Refused(f"plan '{ref}' is not served; served: {', '.join(self._serving.plans)}", 404)
        before, now = self._current.get(ref), time.monotonic()
        if before is not None and now - before.looked < self._serving.limits.refresh:
            return before
        try:
            self._current[ref] = published = self._looked_up(ref, before, now)
        except (NotFound, Invalid) as error:
            self._current.pop(ref, None)
            raise Refused(str(error), 404) from None
        except (SteeringError, RecipeError) as error:
            raise Refused(str(error)) from None
        except (StoreError, OSError) as error:
            if before is None:
                raise Refused(f"the catalog cannot be read: {error}", 503, "server_error") from None
            return before
        return published

    def _looked_up(self, ref: str, before: Published | None, now: float) -> Published:
        name, feature = split_ref(ref)
        artifact = self._home.catalog.get(name)
        require_trusted(self._home, artifact)
        version = pinned(artifact, feature)
        if before is not None and (before.ref, before.digest) == (version, artifact.digest):
            return Published(version, artifact.digest, before.plan, now)
        plan = steering_of(artifact, feature)
        self._check(plan)
        return Published(version, artifact.digest, plan, now)

    def _sum(self, parts: tuple[tuple[Published, float], ...]) -> SteeringPlan:
        """One object for equal sums, so that an engine runs the rows of equal requests together."""
        key = tuple((f"{part.ref} {part.digest}", factor) for part, factor in parts)
        if key not in self._sums:
            if len(self._sums) >= 256:
                self._sums.pop(next(iter(self._sums)))
            self._sums[key] = reduce(add, (part.plan.scaled(factor) for part, factor in parts))
        return self._sums[key]
