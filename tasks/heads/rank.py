"""Rank: a head recipe to a ranking of every head, published as the next version of the recipe's name."""

import time

from prefect import task

from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.model.anatomy import Anatomy
from trimtab.tasks.data.questions import questions_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.heads import HeadRecipe
from trimtab.tasks.recipes.methods import make_method
from trimtab.tasks.references import Reference
from trimtab.tasks.timing import seconds_since

STAGE = "ranking heads"


@task(name="rank")
def rank_task(recipe: HeadRecipe, home: str) -> Reference:
    """See `rank_recipe`."""
    return rank_recipe(recipe, Home.at(home))


def rank_recipe(recipe: HeadRecipe, home: Home) -> Reference:
    """Rank on the half of the questions that is for it. A ranking with the same key is returned as it is."""
    known = home.catalog.find(recipe.stage("rank"))
    if known is not None:
        return Reference(known.ref, known.digest, True)
    started = time.monotonic()
    model, tokenizer = model_of(recipe.model)
    anatomy = Anatomy.of(model)
    rows, _ = recipe.halves()
    questions = questions_of(tokenizer, rows[: recipe.rank.questions])
    report(STAGE, 0, 1)
    ranking = make_method(LOCALISERS, recipe.rank.method, recipe.rank.fields).rank(anatomy, questions)
    report(STAGE, 1, 1)
    packed = ranking.pack()
    header = {
        **packed.header,
        "model": anatomy.fingerprint.to_json(),
    }
    best = [f"{unit} {ranking.value(unit):.3g}" for unit in ranking.top(5)]
    artifact = home.catalog.publish(
        recipe.name,
        "ranking",
        packed.arrays,
        header,
        recipe=recipe.to_json(),
        metrics={"method": ranking.method, "units": len(ranking.units), "top": best, **seconds_since(started)},
        key=recipe.stage("rank"),
    )
    return Reference(artifact.ref, artifact.digest)
