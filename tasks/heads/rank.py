"""Rank: a head recipe to a ranking of every head, published as the next version of the recipe's name."""

from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.model.anatomy import Anatomy
from trimtab.tasks.data.questions import questions_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.heads import HeadRecipe
from trimtab.tasks.recipes.methods import make_method
from trimtab.tasks.references import Reference
from trimtab.tasks.step import Product, Step, as_task

STAGE = "ranking heads"


def rank_recipe(recipe: HeadRecipe, home: Home) -> Reference:
    """Rank on the half of the questions that is for it. A ranking with the same key is returned as it is."""
    step = Step(recipe.name, "ranking", recipe.stage("rank"), recipe.to_json(), timed=True)
    return step.find_or_publish(home, lambda: _ranking(recipe))


rank_task = as_task("rank", rank_recipe)


def _ranking(recipe: HeadRecipe) -> Product:
    model, tokenizer = model_of(recipe.model)
    anatomy = Anatomy.of(model)
    rows, _ = recipe.halves()
    questions = questions_of(tokenizer, rows[: recipe.rank.questions])
    report(STAGE, 0, 1)
    ranking = make_method(LOCALISERS, recipe.rank.method, recipe.rank.fields).rank(anatomy, questions)
    report(STAGE, 1, 1)
    packed = ranking.pack()
    best = [f"{unit} {ranking.value(unit):.3g}" for unit in ranking.top(5)]
    return Product(
        packed.arrays,
        {**packed.header, "model": anatomy.fingerprint.to_json()},
        {"method": ranking.method, "units": len(ranking.units), "top": best},
    )
