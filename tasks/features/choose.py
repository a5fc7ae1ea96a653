"""Choose: the curve over rank and sparsity, as a version of its own, so that nobody has to take the choice on trust."""

from dataclasses import replace

from prefect import task

from trimtab.steering.features.choosing import Candidate, Grid, chosen, rank_curve
from trimtab.store import ActivationStore
from trimtab.tasks.features.rows import rows_in
from trimtab.tasks.home import Home
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.features import FeaturesRecipe
from trimtab.tasks.references import CaptureReference, Reference

STAGE = "choosing rank and sparsity"


@task(name="choose features")
def choose_features_task(recipe: FeaturesRecipe, home: str, capture: CaptureReference) -> Reference | None:
    """See `choose_features`."""
    return choose_features(recipe, Home.at(home), capture)


def choose_features(recipe: FeaturesRecipe, home: Home, capture: CaptureReference) -> Reference | None:
    """Publish `<name>.curve`: fitted on the fit split, measured on the select split. None when the recipe names a
    rank: then nothing is chosen."""
    if recipe.features.rank is not None:
        return None
    key = recipe.stage("choose")
    known = home.catalog.find(key)
    if known is not None:
        return Reference(known.ref, known.digest, True)
    store, site, asked = ActivationStore.open(capture.url), recipe.features.site, recipe.features.choose
    grid = Grid(asked.ranks, asked.sparsities, asked.seeds)
    settings = replace(recipe.features.settings(1, None), max_iterations=asked.max_iterations)
    rows, held_out = (rows_in(store, site, [split]) for split in ("fit", "select"))
    curve = rank_curve(rows, held_out, grid, settings, lambda done, total: report(STAGE, done, total))
    best = chosen(curve)
    header = {"curve": [c.to_json() for c in curve], "chosen": best.to_json(), "site": site}
    metrics = {"site": site, "rank": best.rank, "sparsity": best.sparsity, "held_out": best.held_out}
    artifact = home.catalog.publish(
        f"{recipe.name}.curve",
        "curve",
        {},
        header,
        parents=[capture.ref],
        recipe=recipe.to_json(),
        metrics={**metrics, "stability": best.stability},
        key=key,
    )
    return Reference(artifact.ref, artifact.digest)


def chosen_of(home: Home, curve: Reference) -> Candidate:
    """The point that a published curve chose."""
    found = dict(home.catalog.get(curve.ref).header["chosen"])
    found.pop("score")
    return Candidate(**found)
