"""The recipe behind a published plan: which model answers, and in which form prompts are put to it.

A conditional plan carries its own recipe, which names the plan that it conditions but neither model nor form; these are
the conditioned plan's, whose recipe stands beside it in the header under BASE. (Conditional plans from before carry the
conditioned plan's recipe as theirs.)
"""

from collections.abc import Mapping
from typing import Any

from trimtab.store import Artifact
from trimtab.tasks.recipes.heads import HeadRecipe, make_head_recipe
from trimtab.tasks.recipes.recipe import Recipe, make_recipe

BASE = "base"


def base_values(artifact: Artifact) -> Any:
    """The plan's recipe as JSON, or that of the plan which it conditions."""
    return artifact.header.get(BASE, artifact.recipe)


def recipe_of_plan(artifact: Artifact) -> Recipe | HeadRecipe:
    """That recipe, read. Raises RecipeError when the artifact carries none."""
    values = base_values(artifact)
    of_heads = isinstance(values, Mapping) and "task" in values
    return make_head_recipe(values) if of_heads else make_recipe(values)
