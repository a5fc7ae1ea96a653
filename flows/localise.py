"""localise: which heads do it, and is it true. Questions -> ranking -> ablated beside random sets -> report."""

from dataclasses import dataclass

from trimtab.flows.job import job
from trimtab.tasks.heads.ablate import AblateSettings, ablate_task
from trimtab.tasks.heads.plan import HeadPlanSettings, head_plan_task
from trimtab.tasks.heads.rank import rank_task
from trimtab.tasks.recipes.heads import load_head_recipe
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.command import command, recipe_command
from trimtab.tasks.reporting.heads_report import heads_report_task


@dataclass(frozen=True)
class Localised:
    """What one run made or found, and its report's path."""

    made: Reference
    report: str


@job("rank", "rank-{recipe}")
def rank(recipe: str, home: str = ".trimtab", overrides: list[str] | None = None) -> Localised:
    """Rank the heads of a head recipe. What the catalog already holds for the same recipe is not computed again."""
    ranking = rank_task(load_head_recipe(recipe, overrides or []), home)
    return Localised(ranking, heads_report_task(home, ranking.ref, recipe_command("rank", recipe, home, overrides)))


@job("ablate", "ablate-{ranking}")
def ablate(ranking: str, home: str = ".trimtab", settings: AblateSettings | None = None) -> Localised:
    """Test a ranking's top heads on questions that it was not made on."""
    how = settings or AblateSettings()
    verdict = ablate_task(ranking, home, how)
    return Localised(verdict, heads_report_task(home, verdict.ref, command("ablate", ranking, home, how.options)))


@job("steer heads", "steer-heads-{ranking}")
def steer_heads(ranking: str, home: str = ".trimtab", settings: HeadPlanSettings | None = None) -> Reference:
    """Scale a ranking's top heads to a KL budget, beside random heads at the same price, and publish the plan."""
    return head_plan_task(ranking, home, settings or HeadPlanSettings())
