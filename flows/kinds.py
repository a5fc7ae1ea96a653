"""Which flow runs a recipe of which kind: `trimtab run` and `trimtab deploy` look here."""

from collections.abc import Callable
from typing import Any

from prefect import Flow

from trimtab.flows.condition import condition
from trimtab.flows.features import features
from trimtab.flows.localise import localise
from trimtab.flows.produce import produce
from trimtab.flows.study import study
from trimtab.tasks.recipes.base import Recipe
from trimtab.tasks.recipes.kinds import RecipeFile

FLOWS: dict[str, Flow[Any, Any]] = {
    "behaviour": produce,
    "features": features,
    "condition": condition,
    "heads": localise,
    "study": study,
}


def flow_of(recipe: Recipe) -> Flow[Any, Any]:
    """The flow that runs recipes of this kind; all take `recipe`, `home` and `overrides`."""
    return FLOWS[recipe.kind]


def run_file(file: RecipeFile, home: str) -> Any:
    """Run a recipe that was read; returns what its flow returns."""
    flow: Callable[..., Any] = flow_of(file.recipe)
    return flow(file, home)
