"""Choose: the curve over rank and sparsity, as a version of its own, so that nobody has to take the choice on trust."""

from dataclasses import replace

from trimtab.steering.features.choosing import Candidate, Grid, chosen, rank_curve
from trimtab.store import ActivationStore
from trimtab.tasks.features.rows import rows_in
from trimtab.tasks.home import Home
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.features import FeaturesRecipe
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.step import Product, Step, as_task

STAGE = "choosing rank and sparsity"


def choose_features(recipe: FeaturesRecipe, home: Home, capture: CaptureReference) -> Reference | None:
    """Publish `<name>.curve`: fitted on the fit split, measured on the select split. None when the recipe names a
    rank: then nothing is chosen."""
    if recipe.features.rank is not None:
        return None
    step = Step(f"{recipe.name}.curve", "curve", recipe.stage("choose"), recipe.to_json(), [capture.ref])
    return step.find_or_publish(home, lambda: _curve(recipe, ActivationStore.open(capture.url)))


choose_features_task = as_task("choose features", choose_features)


def _curve(recipe: FeaturesRecipe, store: ActivationStore) -> Product:
    site, choose = recipe.features.site, recipe.features.choose
    grid = Grid(choose.ranks, choose.sparsities, choose.seeds)
    settings = replace(recipe.features.settings(1, None), max_iterations=choose.max_iterations)
    rows, held_out = (rows_in(store, site, [split]) for split in ("fit", "select"))
    curve = rank_curve(rows, held_out, grid, settings, lambda done, total: report(STAGE, done, total))
    best = chosen(curve)
    header = {"curve": [point.to_json() for point in curve], "chosen": best.to_json(), "site": site}
    metrics = {"site": site, "rank": best.rank, "sparsity": best.sparsity, "held_out": best.held_out}
    return Product({}, header, {**metrics, "stability": best.stability})


def chosen_of(home: Home, curve: Reference) -> Candidate:
    """The point that a published curve chose."""
    fields = dict(home.catalog.get(curve.ref).header["chosen"])
    del fields["score"]
    return Candidate(**fields)
