"""condition: a published plan becomes one that acts only where it is wanted."""

from dataclasses import dataclass

from trimtab.flows.job import job
from trimtab.tasks.plans.condition import condition_task
from trimtab.tasks.recipes.condition import ConditionRecipe
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.command import recipe_command
from trimtab.tasks.reporting.selectivity_report import selectivity_report_task


@dataclass(frozen=True)
class Conditioned:
    """What was published: the comparison, the conditional plan, and the report's path."""

    selectivity: Reference
    plan: Reference
    report: str

    @property
    def reused(self) -> bool:
        """True when both were there already."""
        return self.selectivity.reused and self.plan.reused


@job("condition", "condition-{recipe}")
def condition(recipe: str | RecipeFile, home: str = ".trimtab", overrides: list[str] | None = None) -> Conditioned:
    """Run a condition recipe: fit, compare, publish, report."""
    file = RecipeFile.of(recipe, overrides)
    selectivity, plan = condition_task(file.expect(ConditionRecipe), home)
    again = recipe_command("run", file.path, home, file.overrides)
    return Conditioned(selectivity, plan, selectivity_report_task(home, selectivity, plan, again))
