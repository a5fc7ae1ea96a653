"""Head plan: a ranking's top heads scaled to a KL budget, judged beside random heads at the same price, published."""

import dataclasses
from dataclasses import dataclass

from prefect import task

from trimtab.steering.ablation.plans import Steered, judge_heads
from trimtab.steering.causal.question import Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.causal.units import head_units, unit_of
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.price.calibration import FORCED, Calibration
from trimtab.steering.running.scorer import Scorer
from trimtab.tasks.data.questions import questions_of
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.heads.ablate import ranking_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.heads import HeadRecipe
from trimtab.tasks.recipes.kinds import make_recipe, of_kind
from trimtab.tasks.references import Reference


@dataclass(frozen=True)
class HeadPlanSettings:
    """top: heads scaled. kl: budget, nats per answer token on the ranking half (KL(steered || base), forced). random:
    matched head sets, dosed to the same. questions: at most this many of each half."""

    top: int = 10
    kl: float = 0.1
    random: int = 19
    questions: int = 16

    def __post_init__(self) -> None:
        if self.top < 1 or self.random < 1 or self.questions < 2 or not 0 < self.kl < float("inf"):
            raise RecipeError(f"--top {self.top}, --kl {self.kl:g}, --random {self.random}, --questions "
                              f"{self.questions}: give 1, above 0, 1 and 2 at least")  # fmt: skip


@task(name="steer heads")
def head_plan_task(ranking: str, home: str, settings: HeadPlanSettings) -> Reference:
    """See `plan_heads`."""
    return plan_heads(ranking, Home.at(home), settings)


def plan_heads(ranking: str, home: Home, settings: HeadPlanSettings) -> Reference:
    """Publishes `<name>.heads`, kind "plan", whose parent is the ranking. Raises RecipeError for what is no ranking."""
    artifact = ranking_of(home, ranking)
    recipe = of_kind(HeadRecipe, make_recipe(artifact.recipe), artifact.ref)
    model, tokenizer = model_of(recipe.model)
    anatomy = Anatomy.of(model)
    first, second = (questions_of(tokenizer, rows[: settings.questions]) for rows in recipe.halves())
    calibration = Calibration(Scorer(model), [_forced(question) for question in first], on=FORCED)
    chosen = [unit_of(anatomy, site) for site in Ranking.unpack(artifact).top(settings.top)]
    plan, found = judge_heads(calibration, second, chosen, head_units(anatomy), settings.kl, settings.random)
    packed = plan.pack()
    made = home.catalog.publish(
        f"{recipe.name}.heads",
        "plan",
        packed.arrays,
        packed.header,
        parents=[artifact.ref],
        recipe=artifact.recipe,
        metrics={**found.to_json(), "settings": dataclasses.asdict(settings), "sentence": sentence(found)},
    )
    return Reference(made.ref, made.digest)


def sentence(found: Steered) -> str:
    """What was gained, and beside what."""
    gain, dose = found.gain, found.dose
    said = f"At {dose.achieved:.3g} nats per answer token the heads change the metric by {gain.mean:+.3g} "
    said += f"[{gain.low:.3g}, {gain.high:.3g}] nats on held-out questions."
    if not dose.reachable:
        said = f"The budget of {dose.asked:.3g} nats was not reached. {said}"
    if found.over_random is None:
        return f"{said} None of {found.unreached} random head sets could be dosed to the same price."
    over = found.over_random
    beats = "more than" if over.low > 0 else "less than" if over.high < 0 else "as much as can be told as"
    return (
        f"{said} That is {beats} {len(found.random)} random head sets at the same price (difference {over.mean:+.3g} "
        f"[{over.low:.3g}, {over.high:.3g}], rank p = {found.p:.2g}; {found.unreached} could not be dosed)."
    )


def _forced(question: Question):
    return question.clean.followed_by(question.target)
