"""localise: which heads do it, and is it true. Questions -> ranking -> ablated beside random sets -> report."""

from dataclasses import dataclass

from trimtab.flows.job import job
from trimtab.tasks.heads.ablate import AblateSettings, ablate_task
from trimtab.tasks.heads.plan import HeadPlanSettings, head_plan_task
from trimtab.tasks.heads.rank import rank_task
from trimtab.tasks.recipes.heads import AblateSpec, HeadRecipe
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.command import command, recipe_command
from trimtab.tasks.reporting.heads_report import heads_report_task


@dataclass(frozen=True)
class Localised:
    """What one run published or found. ablation: None where nothing was ablated. report: path of the page."""

    ranking: Reference
    ablation: Reference | None
    report: str

    @property
    def product(self) -> Reference:
        """What the report is about: the ablation, or the ranking."""
        return self.ablation or self.ranking

    @property
    def reused(self) -> bool:
        """True when all of it was there already."""
        return self.ranking.reused and (self.ablation is None or self.ablation.reused)


@dataclass(frozen=True)
class Ablated:
    """The test of a ranking that was published before, and its report's path."""

    ablation: Reference
    report: str


@job("localise", "localise-{recipe}")
def localise(recipe: str | RecipeFile, home: str = ".trimtab", overrides: list[str] | None = None) -> Localised:
    """Rank the heads of a head recipe and, where it has an `ablate` section, test the top ones."""
    file = RecipeFile.of(recipe, overrides)
    heads = file.expect(HeadRecipe)
    ranking = rank_task(heads, home)
    again = recipe_command("run", file.path, home, file.overrides)
    if heads.ablate is None:
        return Localised(ranking, None, heads_report_task(home, ranking.ref, again))
    ablation = ablate_task(ranking.ref, home, settings_of(heads.ablate))
    return Localised(ranking, ablation, heads_report_task(home, ablation.ref, again))


@job("rank", "rank-{recipe}")
def rank(recipe: str | RecipeFile, home: str = ".trimtab", overrides: list[str] | None = None) -> Localised:
    """Rank the heads of a head recipe. What the catalog already holds for the same recipe is not computed again."""
    file = RecipeFile.of(recipe, overrides)
    ranking = rank_task(file.expect(HeadRecipe), home)
    again = recipe_command("rank", file.path, home, file.overrides)
    return Localised(ranking, None, heads_report_task(home, ranking.ref, again))


@job("ablate", "ablate-{ranking}")
def ablate(ranking: str, home: str = ".trimtab", settings: AblateSettings | None = None) -> Ablated:
    """Test a ranking's top heads on questions that it was not made on."""
    settings = settings or AblateSettings()
    verdict = ablate_task(ranking, home, settings)
    return Ablated(verdict, heads_report_task(home, verdict.ref, command("ablate", ranking, home, settings.options)))


@job("steer heads", "steer-heads-{ranking}")
def steer_heads(ranking: str, home: str = ".trimtab", settings: HeadPlanSettings | None = None) -> Reference:
    """Scale a ranking's top heads to a KL budget, beside random heads at the same price, and publish the plan."""
    return head_plan_task(ranking, home, settings or HeadPlanSettings())


def settings_of(spec: AblateSpec) -> AblateSettings:
    """A recipe's section as the settings of the test."""
    return AblateSettings(spec.top, spec.operator, spec.random, questions=spec.questions, heads=spec.heads)
