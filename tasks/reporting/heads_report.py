"""The report of a ranking or an ablation: one HTML file, `reports/<name>@<version>.html`."""

from pathlib import Path

from prefect import task

from trimtab.steering.causal.ranking import Ranking
from trimtab.store.catalog.lineage import lineage
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.heads.ablate import ranking_of
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.heads import HeadRecipe
from trimtab.tasks.recipes.kinds import make_recipe, of_kind
from trimtab.tasks.reporting.heads_page import heads_page
from trimtab.tasks.reporting.seal import write_page
from trimtab.tasks.step import seconds_of


@task(name="head report")
def heads_report_task(home: str, ref: str, command: str | None = None) -> str:
    """See `write_heads_page`."""
    return str(write_heads_page(Home.at(home), ref, command))


def write_heads_page(home: Home, ref: str, command: str | None = None) -> Path:
    """Write the page of a ranking, or of an ablation with its ranking. command: to reproduce it. Raises RecipeError for
    another kind."""
    artifact = home.catalog.get(ref)
    if artifact.kind not in ("ranking", "ablation"):
        raise RecipeError(f"{artifact.ref} is a {artifact.kind}; only rankings and ablations have this report")
    tested = artifact.kind == "ablation"
    ranked = ranking_of(home, artifact.parents[0].ref) if tested else artifact
    recipe = of_kind(HeadRecipe, make_recipe(ranked.recipe), ranked.ref)
    about = {
        "name": recipe.name,
        "ref": artifact.ref,
        "digest": artifact.digest,
        "model": recipe.model.id,
        "task": Path(recipe.task.path).stem,
        "questions": str(ranked.header["questions"]),
        "seconds to rank": str(seconds_of(ranked)),
        **({} if command is None else {"command": command}),
        "versions": ", ".join(f"{name} {number}" for name, number in artifact.libraries.items()),
        "lineage": str(lineage(home.catalog, artifact.ref)),
    }
    text = heads_page(Ranking.unpack(ranked), artifact.header if tested else None, about)
    return write_page(text, home.reports / f"{artifact.ref}.html")
