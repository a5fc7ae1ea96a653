"""Step: one stage of a job. What it publishes is found in the catalog by its stage key, or computed and published."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
from prefect import Task, task

from trimtab.store import Artifact
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
    name: str, stage: Callable[Concatenate[Subject, Home, Rest], Result]
) -> Task[Concatenate[Subject, str, Rest], Result]:
    """A stage as a Prefect task. The task takes the home's folder or URL, so that its parameters are small and good on
    any machine, and shows the stage's progress as Prefect artifacts."""

    @wraps(stage)
    def run(subject: Subject, home: str, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        with watched(PrefectProgress()):
            return stage(subject, Home.at(home), *args, **kwargs)

    return cast("Task[Concatenate[Subject, str, Rest], Result]", task(name=name)(run))
