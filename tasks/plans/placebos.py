"""Placebos: measured nulls as versions of the catalog, so that methods that are judged apart, in other processes or on
other days, share them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trimtab.steering.judge.judged import Judged
from trimtab.steering.judge.nulls import Shape
from trimtab.steering.judge.verdict import Contender, Effect
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.statistics import Interval
from trimtab.store import Artifact
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.references import CaptureReference
from trimtab.tasks.step import Product, Step

KIND = "placebos"
MARGINS = "margins"  # array `[placebos pairs]`
JUDGED = "judged"  # header key: contenders, in the order of the plan's interventions


@dataclass(frozen=True)
class PublishedNulls:
    """A shelf whose placebos are `<name>.placebos` of the recipe's home, found by everything they depend on: the method
    is not among it."""

    recipe: BehaviourRecipe
    home: Home
    capture: CaptureReference

    def get(self, shape: Shape) -> list[Judged] | None:
        """Those that were measured for this shape; None when none were."""
        reference = self._step(shape).find(self.home)
        return None if reference is None else judged_of(self.home.catalog.get(reference.ref))

    def put(self, shape: Shape, nulls: Sequence[Judged]) -> None:
        """Publish them. Raises StoreError."""
        self._step(shape).find_or_publish(self.home, lambda: product_of(nulls))

    def _step(self, shape: Shape) -> Step:
        key = self.recipe.stage("placebos", [json.dumps(shape)])
        return Step(f"{self.recipe.name}.placebos", KIND, key, self.recipe.to_json(), [self.capture.ref])


def product_of(nulls: Sequence[Judged]) -> Product:
    """Dosed plans of one intervention each, what was measured of them, and their margins."""
    together = SteeringPlan(())
    for one in nulls:
        assert one.plan is not None  # only a system prompt has none
        together = together + one.plan
    packed = together.pack()
    arrays = {**packed.arrays, MARGINS: np.stack([one.margins for one in nulls])}
    return Product(arrays, {**packed.header, JUDGED: [asdict(one.contender) for one in nulls]})


def judged_of(artifact: Artifact) -> list[Judged]:
    """The reverse."""
    plan, margins = SteeringPlan.unpack(artifact), artifact.arrays[MARGINS]
    return [
        Judged(_contender(fields), SteeringPlan((step,), plan.model), np.asarray(of_pairs))
        for fields, step, of_pairs in zip(artifact.header[JUDGED], plan.interventions, margins, strict=True)
    ]


def _contender(fields: Mapping[str, Any]) -> Contender:
    effect = {name: _interval(value) for name, value in fields["effect"].items()}
    return Contender(**{**fields, "effect": Effect(**effect), "difference": _interval(fields["difference"])})


def _interval(value: Any) -> Any:
    return Interval(**value) if isinstance(value, Mapping) else value
