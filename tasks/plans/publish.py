"""Publish: the judged plan becomes the next version of the recipe's name, with its price and verdict beside it."""

from typing import Any

from prefect import task

from trimtab.steering.running.sampling import Sampling
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.references import Reference


@task(name="publish")
def publish_task(recipe: BehaviourRecipe, home: str, verdict: Reference) -> Reference:
    """See `publish_recipe`."""
    return publish_recipe(recipe, Home.at(home), verdict)


def publish_recipe(recipe: BehaviourRecipe, home: Home, verdict: Reference) -> Reference:
    """`<name>@next`: the plan at the strength of its dose, whose parent is its verdict. Asking twice publishes once."""
    key = f"{recipe.stage('validate')}/publish/{recipe.name}"
    known = home.catalog.find(key)
    if known is not None:
        return Reference(known.ref, known.digest, True)
    judged = home.catalog.get(verdict.ref)
    artifact = home.catalog.publish(
        recipe.name,
        "plan",
        judged.arrays,
        judged.header["plan"],
        parents=[verdict.ref],
        recipe=recipe.to_json(),
        metrics=metrics_of(judged.header["verdict"]),
        key=key,
    )
    return Reference(artifact.ref, artifact.digest)


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
