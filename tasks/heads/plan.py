"""Head plan: a ranking's top heads scaled to a KL budget, judged beside random heads at the same price, published."""

import dataclasses
from dataclasses import dataclass

from trimtab.steering.ablation.plans import HeadsGain, judge_heads
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
from trimtab.tasks.step import Product, Step, as_task


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


def plan_heads(ranking: str, home: Home, settings: HeadPlanSettings) -> Reference:
    """Publishes `<name>.heads`, kind "plan", whose parent is the ranking. Raises RecipeError for what is no ranking."""
    artifact = ranking_of(home, ranking)
    recipe = of_kind(HeadRecipe, make_recipe(artifact.recipe), artifact.ref)
    model, tokenizer = model_of(recipe.model)
    anatomy = Anatomy.of(model)
    first, second = (questions_of(tokenizer, rows[: settings.questions]) for rows in recipe.halves())
    forced = [question.clean.followed_by(question.target) for question in first]
    heads = [unit_of(anatomy, site) for site in Ranking.unpack(artifact).top(settings.top)]
    calibration = Calibration(Scorer(model), forced, on=FORCED)
    plan, result = judge_heads(calibration, second, heads, head_units(anatomy), settings.kl, settings.random)
    packed = plan.pack()
    metrics = {**result.to_json(), "settings": dataclasses.asdict(settings), "sentence": sentence(result)}
    step = Step(f"{recipe.name}.heads", "plan", None, artifact.recipe, [artifact.ref])
    return step.publish(home, Product(packed.arrays, packed.header, metrics))


head_plan_task = as_task("steer heads", plan_heads)


def sentence(result: HeadsGain) -> str:
    """What was gained, and beside what."""
    gain, dose = result.gain, result.dose
    text = f"At {dose.achieved:.3g} nats per answer token the heads change the metric by {gain.mean:+.3g} "
    text += f"[{gain.low:.3g}, {gain.high:.3g}] nats on held-out questions."
    if not dose.reachable:
        text = f"The budget of {dose.asked:.3g} nats was not reached. {text}"
    if result.over_random is None:
        return f"{text} None of {result.unreached} random head sets could be dosed to the same price."
    over = result.over_random
    beats = "more than" if over.low > 0 else "less than" if over.high < 0 else "as much as can be told as"
    return (
        f"{text} That is {beats} {len(result.random)} random head sets at the same price (difference {over.mean:+.3g} "
        f"[{over.low:.3g}, {over.high:.3g}], rank p = {result.p:.2g}; {result.unreached} could not be dosed)."
    )
