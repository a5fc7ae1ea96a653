"""Ablate: a published ranking to a verdict on its top heads, on the questions that it was not made on: necessity and
sufficiency beside random sets, cumulative curves, what it costs neutral text, and other tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.steering.ablation.curves import Curve, OneByOne, curves, one_by_one, specificity
from trimtab.steering.ablation.off_target import off_target
from trimtab.steering.ablation.operators import Operator
from trimtab.steering.ablation.runs import Ablator
from trimtab.steering.ablation.sets import FEWEST, matched_sets
from trimtab.steering.ablation.verdict import Standard, judge_set
from trimtab.steering.causal.question import Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.causal.units import Unit, head_units, unit_of
from trimtab.steering.errors import BadQuestion
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import PromptFormat, tokenize
from trimtab.store import Artifact
from trimtab.store.digests import json_digest
from trimtab.tasks.data.judging import neutral_texts
from trimtab.tasks.data.questions import questions_of
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.heads import HeadRecipe
from trimtab.tasks.recipes.kinds import make_recipe, of_kind
from trimtab.tasks.references import Reference
from trimtab.tasks.step import Product, Step, as_task

FORMAT = 1
OPTIONS = ("top", "operator", "random", "questions")  # of the command line, beside --heads
STEPS = ("verdict", "curves", "one by one", "off target", "other tasks")
BESIDE = 4  # random sets beside the off-target cost
SIZES = (0, 1, 2, 3, 5, 10, 20, 40)


@dataclass(frozen=True)
class AblateSettings:
    """top: heads of the ranking, best first. operator: see `operators.py`. random: matched sets, for the verdict;
    curve_random: for each point of the curves. company: how many of the next heads in the ranking are asked whether
    they stand in for the set. questions: at most this many of the held-out half. heads: also every
    head alone, with Holm and Benjamini-Hochberg. neutral: texts for the off-target cost."""

    top: int = 10
    operator: str = "mean"
    random: int = 99
    curve_random: int = 9
    company: int = 10
    questions: int = 24
    heads: bool = False
    neutral: int = 12
    sizes: tuple[int, ...] = field(default=SIZES)

    def __post_init__(self) -> None:
        Operator.parse(self.operator)
        if self.top < 1 or self.random < 0 or self.questions < 2:
            raise RecipeError(f"--top {self.top}, --random {self.random}, --questions {self.questions}: give 1 head, 0 "
                              f"random sets and 2 questions at least")  # fmt: skip
        if 0 < self.random < FEWEST:
            raise RecipeError(f"--random {self.random}: no rank among so few can reach p = 0.05; give {FEWEST}, or 0")

    @property
    def options(self) -> list[str]:
        """Of `trimtab ablate`, whatever is not its default."""
        told = [(name, getattr(self, name)) for name in OPTIONS if getattr(self, name) != getattr(AblateSettings, name)]
        return [word for name, value in told for word in (f"--{name}", str(value))] + ["--heads"] * self.heads


def ablate_ranking(ranking: str, home: Home, settings: AblateSettings) -> Reference:
    """Publishes `<name>.ablation`, whose parent is the ranking. The same settings on the same ranking are not run
    again. Raises RecipeError for a reference that is no ranking made by `trimtab rank`."""
    artifact = ranking_of(home, ranking)
    key = f"ablate/{json_digest({'format': FORMAT, 'of': artifact.digest, 'settings': asdict(settings)})}"
    recipe = of_kind(HeadRecipe, make_recipe(artifact.recipe), artifact.ref)
    step = Step(f"{recipe.name}.ablation", "ablation", key, artifact.recipe, [artifact.ref], timed=True)
    return step.find_or_publish(
        home, lambda: measured(trial_of(recipe, Ranking.unpack(artifact), settings), recipe, settings)
    )


ablate_task = as_task("ablate", ablate_ranking)


def ranking_of(home: Home, ref: str) -> Artifact:
    """The artifact of a ranking. Raises RecipeError when it is another kind."""
    artifact = home.catalog.get(ref)
    if artifact.kind != "ranking":
        raise RecipeError(
            f"{artifact.ref} is of kind {artifact.kind}, not a ranking; `trimtab ls --kind ranking` lists them"
        )
    return artifact


@dataclass(frozen=True, eq=False)
class HeadTrial:
    """anatomy: of the model. ablator: with its reference from the ranking half. order: ranked heads, best first.
    questions: of the held-out half."""

    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase
    ablator: Ablator
    order: Sequence[Unit]
    universe: Sequence[Unit]
    questions: Sequence[Question]


def trial_of(recipe: HeadRecipe, ranking: Ranking, settings: AblateSettings) -> HeadTrial:
    """Everything that is measured with."""
    model, tokenizer = model_of(recipe.model)
    anatomy = Anatomy.of(model)
    first, second = recipe.halves()
    universe = head_units(anatomy)
    heads = ranking.top(len(universe))
    if settings.top > len(heads):
        raise RecipeError(f"--top {settings.top}: the ranking has {len(heads)} heads")
    reference = questions_of(tokenizer, first[: max(recipe.rank.questions, 2)])
    return HeadTrial(
        anatomy,
        tokenizer,
        Ablator.of(anatomy, settings.operator, reference, universe),
        [unit_of(anatomy, site) for site in heads],
        universe,
        questions_of(tokenizer, second[: settings.questions]),
    )


def measured(trial: HeadTrial, recipe: HeadRecipe, settings: AblateSettings) -> Product:
    """Everything that is measured of the top heads."""
    top = trial.order[: settings.top]
    _progress(0)
    standard, company = Standard(random=settings.random), trial.order[settings.top : settings.top + settings.company]
    verdict = judge_set(trial.ablator, trial.questions, top, trial.universe, standard, company)
    _progress(1)
    drawn = _curves(trial, settings)
    _progress(2)
    alone = one_by_one(trial.ablator, trial.questions, trial.universe) if settings.heads else None
    _progress(3)
    cost = _off_target(trial, recipe, top, settings)
    _progress(4)
    others = _others(trial, recipe, top, settings)
    _progress(5)
    header = {
        "kind": "ablation",
        "format": FORMAT,
        "settings": asdict(settings),
        "verdict": asdict(verdict),
        "curves": {curve.name: _curve_json(curve) for curve in drawn},
        "off_target": cost,
        "others": others,
        "heads": None if alone is None else _heads_json(alone),
        "questions": len(trial.questions),
    }
    arrays = {f"curve/{c.name}": c.metric.astype(np.float32) for c in drawn}
    if alone is not None:
        arrays["drop"] = alone.drop.astype(np.float32)
    return Product(arrays, header, metrics_of(header))


def metrics_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers by which versions are compared."""
    verdict, cost = header["verdict"], header["off_target"]
    return {
        "word": verdict["word"],
        "necessity": verdict["necessity"]["share"],
        "sufficiency": verdict["sufficiency"]["share"],
        "off_target": cost["mean"] if cost else None,
        "sentence": verdict["sentence"],
    }


def _curves(trial: HeadTrial, settings: AblateSettings) -> tuple[Curve, Curve]:
    most = min(len(trial.order), len(trial.universe) // 3)  # beyond, random sets would be nearly the same set
    sizes = sorted({k for k in (*settings.sizes, settings.top) if k <= most})
    return curves(trial.ablator, trial.questions, trial.order, trial.universe, sizes, settings.curve_random)


def _off_target(trial: HeadTrial, recipe: HeadRecipe, top: Sequence[Unit], settings: AblateSettings):
    if trial.ablator.operator.name in ("resample", "corrupted") or settings.neutral < 2:
        return None  # they have nothing to put into neutral text
    texts = neutral_texts(recipe.neutral)[: settings.neutral]
    tokens = [tokenize(trial.tokenizer, text, form=PromptFormat(chat=False)) for text in texts]
    beside = matched_sets(trial.universe, top, BESIDE)
    return asdict(off_target(trial.ablator, tokens, [list(top), *beside]))


def _others(
    trial: HeadTrial, recipe: HeadRecipe, top: Sequence[Unit], settings: AblateSettings
) -> dict[str, float | None]:
    """Share lost of this task and of the others without the set, None where the model does not do a task at all; each
    task has a reference of its own."""
    if not recipe.others:
        return {}
    names, ablators, tasks = [recipe.task.path], [trial.ablator], [list(trial.questions)]
    for file in recipe.others:
        first, second = recipe.halves(file.path)
        reference, questions = (questions_of(trial.tokenizer, rows[: settings.questions]) for rows in (first, second))
        names.append(file.path)
        ablators.append(Ablator.of(trial.anatomy, settings.operator, reference, trial.universe))
        tasks.append(questions)
    losses: dict[str, float | None] = {}
    for name, ablator, questions in zip(names, ablators, tasks, strict=True):
        try:
            losses[_stem(name)] = float(specificity([ablator], [questions], [list(top)])[0, 0])
        except BadQuestion:
            losses[_stem(name)] = None
    return losses


def _curve_json(curve: Curve) -> dict[str, Any]:
    (low, high), (under, over) = curve.interval, curve.band
    lists = {"mean": curve.mean, "low": low, "high": high, "band_low": under, "band_high": over}
    return {"sizes": list(curve.sizes), **{name: [_number(x) for x in values] for name, values in lists.items()}}


def _heads_json(results: OneByOne) -> dict[str, Any]:
    return {
        "units": list(results.units),
        **{name: [float(x) for x in getattr(results, name)] for name in ("p", "holm", "bh")},
        "drop": [float(x) for x in results.drop.mean(0)],
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".jsonl")


def _progress(done: int) -> None:
    report("ablating heads", done, len(STEPS))
