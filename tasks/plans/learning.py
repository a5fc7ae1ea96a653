"""Learning: the texts of a recipe become examples, and what a method learns from them through the model becomes
candidates, each a plan of one site or of many."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.judge.candidates import Candidates, by_site
from trimtab.steering.judge.settings import JudgeSettings
from trimtab.steering.learning.examples import Examples
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.response import Responses
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.store import ActivationStore, Artifact
from trimtab.tasks.data.prompts import couples, texts_of
from trimtab.tasks.data.sections import Data
from trimtab.tasks.models import model_of
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.sections import ModelSpec
from trimtab.tasks.step import Product

RESPONSES = Responses()  # of this process: a fit, its refits, its search and the next method's ask for the same
NAMES = "candidates"  # header key: from each candidate's name to the numbers of its interventions


def learned(recipe: BehaviourRecipe, store: ActivationStore, method: ModelFitter) -> Product:
    """The candidates of a method that learns through the model, as one packed plan and which interventions of it each
    candidate has."""
    model, _ = model_of(recipe.model)
    plans = method.fit(Anatomy.of(model), examples_of(recipe), sites_of(store, recipe.fit.point), report)
    numbers, together = dict[str, list[int]](), SteeringPlan(())
    for name, plan in plans.items():
        begin = len(together.interventions)
        together = together + plan
        numbers[name] = list(range(begin, len(together.interventions)))
    packed = together.pack()
    return Product(packed.arrays, {**packed.header, NAMES: numbers})


def candidates_of(artifact: Artifact) -> Candidates:
    """Published candidates by name. Those without names of their own are the sites of one plan apart."""
    plan, names = SteeringPlan.unpack(artifact), artifact.header.get(NAMES)
    return by_site(plan) if names is None else _named(plan, names)


def examples_of(recipe: BehaviourRecipe) -> Examples:
    """The pairs of the fit split, those of the select split held out, cut as the judge cuts them."""
    return replace(_examples(recipe.model, recipe.data, recipe.fit.span, recipe.seed), budget=recipe.budget.kl)


@lru_cache(maxsize=1)
def _examples(spec: ModelSpec, data: Data, span: str, seed: int) -> Examples:
    _, tokenizer = model_of(spec)
    texts, cut = texts_of(data, tokenizer), JudgeSettings().completion_tokens

    def pairs(split: str) -> tuple[AnswerPair, ...]:
        return tuple(AnswerPair(a, b).shortened(cut) for (_, a), (_, b) in couples(texts, split))

    return Examples(pairs("fit"), pairs("select"), Span.parse(span), seed=seed, responses=RESPONSES)


def sites_of(store: ActivationStore, point: str) -> list[Site]:
    """The captured sites of one point, by block."""
    return sorted(site for site in map(Site.parse, store.sites) if site.point == point)


def _named(plan: SteeringPlan, names: Mapping[str, list[int]]) -> Candidates:
    """In the order of the plan's interventions; a header has its keys in alphabetical order."""
    return {
        name: replace(plan, interventions=tuple(plan.interventions[k] for k in numbers))
        for name, numbers in sorted(names.items(), key=lambda item: item[1])
    }
