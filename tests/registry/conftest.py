"""A home with judged plans, made from an invented verdict: no model runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from verdicts import around, verdict

from trimtab.store import Artifact
from trimtab.tasks.home import Home
from trimtab.tasks.plans.publish import metrics_of


def judged(effect: float = 0.6, kl: float = 0.1, beats: bool = True, half: float = 0.05) -> dict[str, Any]:
    """The JSON of a verdict with this effect and KL, their intervals `half` and a tenth of it to each side."""
    whole = verdict()
    plan, *others = whole.contenders
    plan = replace(plan, effect=replace(plan.effect, margin=around(effect, half)))
    budget = replace(whole.price.budget, mean=around(kl, half / 10))
    price = replace(whole.price, budget=budget)
    return replace(whole, contenders=(plan, *others), price=price, beats_random=beats).to_json()


def publish(home: Home, name: str = "warm", require: dict[str, Any] | None = None, **numbers: Any) -> Artifact:
    """The next version of a plan, with its verdict; each differs from all others."""
    catalog, record = home.catalog, judged(**numbers)
    count = len(catalog.names()) and len(catalog.list())
    header = {"kind": "verdict", "verdict": record, "number": count}
    parent = catalog.publish(f"{name}.verdict", "verdict", {}, header, recipe={"name": name})
    recipe = {"name": name, "kind": "behaviour", "model": {"id": "smollm2"}, "require": require}
    recipe = {key: value for key, value in recipe.items() if value is not None}
    arrays = {"0/vector": np.random.default_rng(count).normal(size=8).astype(np.float32)}
    plan_header = {"kind": "plan", "format": 1, "model": None, "number": count}
    return catalog.publish(name, "plan", arrays, plan_header, [parent.ref], recipe, metrics_of(record))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")
