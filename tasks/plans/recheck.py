"""Recheck: a published plan measured again with the model, tokenizer and libraries of today, beside its verdict."""

import warnings
from dataclasses import dataclass
from typing import Any

from trimtab.steering.judge.again import Remeasured, measure_again
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import template_digest, tokenizer_digest
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.statistics import Interval
from trimtab.store import Artifact
from trimtab.store.catalog.artifact import libraries
from trimtab.store.errors import NotFound
from trimtab.tasks.errors import NegativeOutcome, RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.validate import judged_texts, settings_of
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import make_recipe, of_kind
from trimtab.tasks.references import Reference
from trimtab.tasks.registry import gates
from trimtab.tasks.registry.claims import Claims, claims_of, is_worse, told
from trimtab.tasks.registry.gates import bounds, require_of
from trimtab.tasks.step import Product, Step, as_task

SUFFIX = "recheck"


class Drift(NegativeOutcome):
    """A published plan does, or costs, today something else than its verdict says. result: what was Rechecked."""


@dataclass(frozen=True)
class Rechecked:
    """plan: the version that was measured. published: the recheck's own version. changes: today's effect, kl and damage
    minus those of the verdict, nats per token, with intervals. worse: which of them changed for the worse beyond noise.
    failures: what the recipe requires and today's numbers do not show. other_weights: whether the model has other
    weights than when the plan was made."""

    plan: str
    published: Reference
    changes: dict[str, Interval]
    worse: tuple[str, ...]
    failures: tuple[str, ...]
    other_weights: bool

    @property
    def drifted(self) -> bool:
        """True when a number is worse beyond noise, or no longer what is required."""
        return bool(self.worse or self.failures)

    @property
    def text(self) -> str:
        """One sentence."""
        changes = ", ".join(f"{name} {told(change)}" for name, change in self.changes.items())
        state = f"is worse than its verdict in {' and '.join(self.worse)}" if self.worse else "is as its verdict says"
        weights = "; the model has other weights than when it was made" if self.other_weights else ""
        failures = "".join(f"; {failure}" for failure in self.failures)
        return f"{self.plan} {state} (today minus verdict, nats per token: {changes}){failures}{weights}"


def recheck_version(ref: str, home: Home) -> Rechecked:
    """Measure what `ref` names on the texts of its verdict, and publish that as `<name>.recheck`. A recheck that finds
    the same with the same libraries is one version.

    Raises RecipeError for a version that no behaviour recipe made, DataError when its data files changed or are gone.
    """
    artifact = home.catalog.get(ref)
    claims = claims_of(home, artifact)
    if artifact.kind != "plan" or claims is None:
        raise RecipeError(
            f"{artifact.ref}: only a plan with a verdict can be measured again; this is a {artifact.kind}"
        )
    recipe = of_kind(BehaviourRecipe, make_recipe(artifact.recipe), artifact.ref)
    today, other_weights = _measure(recipe, artifact)
    changes = today.changes(claims)
    worse = tuple(name for name, change in changes.items() if is_worse(name, change))
    require = require_of(artifact)
    failures = tuple(check.text for check in bounds(require, today) if not check.holds) if require else ()
    header = {
        "kind": SUFFIX,
        "plan": artifact.ref,
        "today": _numbers(today),
        "verdict": _numbers(claims),
        "changes": {name: vars(change) for name, change in changes.items()},
        "worse": list(worse),
        "failures": list(failures),
        "conditions": {**_conditions(recipe), "other_weights": other_weights},
    }
    step = Step(f"{artifact.name}.{SUFFIX}", SUFFIX, None, artifact.recipe, [artifact.ref])
    published = step.publish(home, Product({}, header))
    return Rechecked(artifact.ref, published, changes, worse, failures, other_weights)


recheck_task = as_task("recheck", recheck_version)


def roll_back(ref: str, home: Home, rechecked: Rechecked) -> str:
    """Let the alias in `ref` name again what it named before; returns what it names now, as a clause. An alias that
    somebody moved meanwhile, or that named nothing before, stays."""
    name, _, alias = ref.partition("@")
    if home.catalog.aliases(name).get(alias) is None or home.catalog.get(ref).ref != rechecked.plan:
        return f"{ref} does not name {rechecked.plan} any more, so nothing is rolled back"
    try:
        move = gates.roll_back(home, name, alias, f"drift: {', '.join(rechecked.worse) or 'requirements'}")
    except NotFound as error:
        return f"it stays: {str(error).rstrip('.')}"
    return f"{ref} is {name}@{move.after} again"


roll_back_task = as_task("roll back", roll_back, model=False)


def _measure(recipe: BehaviourRecipe, artifact: Artifact) -> tuple[Claims, bool]:
    """Today's numbers, and whether the weights are others than when the plan was made."""
    model, tokenizer = model_of(recipe.model)
    plan = SteeringPlan.unpack(artifact)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other weights, which the result says itself
        again = measure_again(model, plan, judged_texts(recipe, tokenizer), settings_of(recipe))
    return _claims(again), plan.model is not None and plan.model != Anatomy.of(model).fingerprint


def _claims(again: Remeasured) -> Claims:
    """Placebos are not measured again, so that what they say is left at False."""
    return Claims(again.effect.margin, again.price.budget.mean, again.price.damage.mean, beats_random=False)


def _numbers(claims: Claims) -> dict[str, Any]:
    return {name: vars(interval) for name, interval in vars(claims).items() if isinstance(interval, Interval)}


def _conditions(recipe: BehaviourRecipe) -> dict[str, Any]:
    """What may have changed since the verdict."""
    model, tokenizer = model_of(recipe.model)
    return {
        "weights": Anatomy.of(model).fingerprint.to_json(),
        "tokenizer": tokenizer_digest(tokenizer),
        "template": template_digest(tokenizer),
        "checkpoint": recipe.model.checkpoint,
        "libraries": dict(libraries()),
    }
