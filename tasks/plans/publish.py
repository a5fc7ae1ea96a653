"""Publish: the judged plan becomes the next version of the recipe's name, with its price and verdict beside it."""

from typing import Any

from trimtab.steering.running.sampling import Sampling
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.references import Reference
from trimtab.tasks.step import Product, Step, as_task


def publish_recipe(recipe: BehaviourRecipe, home: Home, verdict: Reference) -> Reference:
    """`<name>@next`: the plan at the strength of its dose, whose parent is its verdict. Asking twice publishes once."""

    def plan_of_verdict() -> Product:
        artifact = home.catalog.get(verdict.ref)
        return Product(artifact.arrays, artifact.header["plan"], metrics_of(artifact.header["verdict"]))

    return Step(recipe.name, "plan", recipe.publish_key, recipe.to_json(), [verdict.ref]).find_or_publish(
        home, plan_of_verdict
    )


publish_task = as_task("publish", publish_recipe, model=False)


def metrics_of(verdict: dict[str, Any]) -> dict[str, Any]:
    """The numbers people compare versions by. KL and effect in nats per token."""
    plan = next(c for c in verdict["contenders"] if c["kind"] == "plan")
    price = verdict["price"]
    return {
        "effect": plan["effect"]["margin"],
        "behaviour": plan["effect"]["behaviour"],
        "kl_asked": verdict["dose"]["asked"],
        "kl_achieved": verdict["dose"]["achieved"],
        "kl_held_out": price["budget"]["mean"],
        "kl_sampling": str(Sampling(**price["budget"].get("sampling", {}))),
        "damage": price["damage"]["mean"],
        "perplexity": [price["perplexity_base"], price["perplexity_steered"]],
        "site": verdict["site"],
        "strength": verdict["dose"]["strength"],
        "beats_random": verdict["beats_random"],
        "sentence": verdict["sentence"],
    }
