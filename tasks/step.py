"""Step: one stage of a job. What it publishes is found in the catalog by its stage key, or computed and published."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import httpx
import icechunk
import numpy as np
from prefect import Task, task
from prefect.states import State

from trimtab.store import Artifact
from trimtab.tasks.announcing import announce_version
from trimtab.tasks.home import Home
from trimtab.tasks.progress import PrefectProgress, watched
from trimtab.tasks.references import Reference

SECONDS = "seconds"
Subject = TypeVar("Subject")
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Product:
    """What a step computed: arrays and header, which the digest of the version covers, and metrics, which it does not
    cover."""

    arrays: Mapping[str, np.ndarray]
    header: Mapping[str, Any]
    metrics: Mapping[str, Any] | None = None

    def timed(self, seconds: float) -> "Product":
        """The same with the time that it took in its metrics. In the header it would make two versions of the same
        work done twice."""
        return Product(self.arrays, self.header, {**(self.metrics or {}), SECONDS: round(seconds, 1)})


@dataclass(frozen=True)
class Step:
    """The version that a stage publishes. name, kind: of the version. key: digest of everything it depends on, None
    when the same stage is to publish again. recipe: as JSON. parents: references of the versions it is made from.
    timed: whether its metrics say how long it took."""

    name: str
    kind: str
    key: str | None
    recipe: Any
    parents: Sequence[str] = field(default=())
    timed: bool = False

    def find(self, home: Home) -> Reference | None:
        """The version that was published under this key before."""
        artifact = None if self.key is None else home.catalog.find(self.key)
        return None if artifact is None else Reference(artifact.ref, artifact.digest, True)

    def publish(self, home: Home, product: Product) -> Reference:
        """The next version of the name. Raises StoreError."""
        artifact = home.catalog.publish(
            self.name,
            self.kind,
            product.arrays,
            product.header,
            parents=self.parents,
            recipe=self.recipe,
            metrics=product.metrics,
            key=self.key,
        )
        announce_version(home, artifact.ref)
        return Reference(artifact.ref, artifact.digest)

    def find_or_publish(self, home: Home, compute: Callable[[], Product]) -> Reference:
        """The version with this key; `compute` is called only when there is none."""
        reference = self.find(home)
        if reference is not None:
            return reference
        started = time.monotonic()
        product = compute()
        return self.publish(home, product.timed(time.monotonic() - started) if self.timed else product)


def seconds_of(artifact: Artifact) -> Any:
    """How long a version took to make; older versions have it in their header. None when it was not recorded."""
    metrics = artifact.metrics if isinstance(artifact.metrics, dict) else {}
    return metrics.get(SECONDS, artifact.header.get(SECONDS))


def as_task(
    name: str, stage: Callable[Concatenate[Subject, Home, Rest], Result], model: bool = True
) -> Task[Concatenate[Subject, str, Rest], Result]:
    """A stage as a Prefect task. The task takes the home's folder or URL, so that its parameters are small and good on
    any machine, and shows the stage's progress as Prefect artifacts.

    model: it runs a model, so that it has the tag "gpu", whose number at once a server can limit. A storage or network
    that fails is tried twice more, after about ten seconds and a minute: what was committed stays, and a stage goes on.
    """

    @wraps(stage)
    def run(subject: Subject, home: str, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        with watched(PrefectProgress()):
            return stage(subject, Home.at(home), *args, **kwargs)

    tags = ["trimtab", "gpu"] if model else ["trimtab"]
    return cast("Task[Concatenate[Subject, str, Rest], Result]", task(name=name, tags=tags, **RETRYING)(run))


def is_transient(running: object, run: object, state: "State[Any]") -> bool:
    """Whether a failed task is worth another try: the storage or the network failed, not what was asked of them."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ConnectionError | TimeoutError | httpx.TransportError | icechunk.IcechunkError)


RETRYING: Mapping[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": is_transient,
}
