"""Condition: a gate or a controller for a published plan, compared on held-out prompts with the plan itself at its own
price and at the same mean price, and published as a plan of its own."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from prefect import task
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.conditions.controller import START, ControllerSettings, Taught, gated_by, train_controller
from trimtab.steering.conditions.fit_gate import GateSettings, fit_gate
from trimtab.steering.conditions.prompts import Labelled, Splits
from trimtab.steering.conditions.selectivity import Arena, Selective
from trimtab.steering.errors import SteeringError
from trimtab.steering.gates import GATES, Gate
from trimtab.steering.gates.all_of import AllOf
from trimtab.steering.gates.base import Scored
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import PromptFormat, Role, Tokens, tokenize
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.price.dose import Dosing, dose_on
from trimtab.steering.price.result import Dose
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, generate
from trimtab.store.catalog.artifact import Artifact
from trimtab.tasks.data.marked_prompts import labelled_rows
from trimtab.tasks.errors import DataError, RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.validate import behaviour_of, decoding_of
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.condition import ConditionRecipe, ConditionSpec
from trimtab.tasks.recipes.kinds import make_recipe, of_kind
from trimtab.tasks.recipes.methods import make_method
from trimtab.tasks.recipes.of_plan import BASE
from trimtab.tasks.references import Reference
from trimtab.tasks.timing import seconds_since

SHOWN = 3  # answers of each side in the header
FIXED, FIXED_SAME, GATED, CONTROLLED = "fixed", "fixed, same mean KL", "gated", "controlled"


@task(name="condition")
def condition_task(recipe: ConditionRecipe, home: str) -> tuple[Reference, Reference]:
    """See `condition_recipe`."""
    return condition_recipe(recipe, Home.at(home))


def condition_recipe(recipe: ConditionRecipe, home: Home) -> tuple[Reference, Reference]:
    """Publish `<name>.selectivity` and `<name>`, the conditional plan; both are returned as they are when the catalog
    holds them already. Raises RecipeError, DataError, StoreError or SteeringError: one line each."""
    parents = _parents(recipe, home)
    key = recipe.stage("condition", (parents[0].digest, parents[-1].digest))
    known = [home.catalog.find(f"{key}/selectivity"), home.catalog.find(f"{key}/{recipe.name}")]
    if known[0] is not None and known[1] is not None:
        return Reference(known[0].ref, known[0].digest, True), Reference(known[1].ref, known[1].digest, True)
    started, study = time.monotonic(), study_of(recipe, parents)
    conditioned, about = _condition(study)
    found, matched = compare(study, conditioned)
    packed, asked = conditioned[_kind(recipe)].pack(), recipe.to_json()
    header = {
        "kind": "selectivity",
        "condition": asked,
        "about": about,
        "matched": matched,
        "contenders": [one.to_json() for one in found],
        "answers": _answers(study, conditioned[_kind(recipe)]),
    }
    refs = list(dict.fromkeys(parent.ref for parent in parents))
    catalog, metrics = home.catalog, metrics_of(found, about)
    kind = "selectivity"
    spent = seconds_since(started)
    judged = catalog.publish(f"{recipe.name}.{kind}", kind, {}, header, refs, asked, spent, f"{key}/{kind}")
    whole, own = {**packed.header, BASE: parents[0].recipe}, f"{key}/{recipe.name}"
    plan = catalog.publish(recipe.name, "plan", packed.arrays, whole, [judged.ref], asked, metrics, own)
    return Reference(judged.ref, judged.digest), Reference(plan.ref, plan.digest)


@dataclass(frozen=True, eq=False)
class Study:
    """Everything a condition is made from."""

    recipe: ConditionRecipe
    base: BehaviourRecipe
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plan: SteeringPlan
    patch: SteeringPlan
    splits: Splits

    @property
    def sites(self) -> list[Site]:
        """Where the prompt is read."""
        asked, anatomy = self.recipe.condition, Anatomy.of(self.model)
        blocks = None if asked.blocks == "all" else asked.blocks
        return list(anatomy.sites([asked.point], blocks))

    def arena(self, prompts: Labelled, seed: int) -> Arena:
        """Contenders answer these prompts; scored as the plan's own recipe scores behaviour."""
        behaviour = behaviour_of(self.base)
        if behaviour is None:
            raise RecipeError(f"{self.recipe.plan}: its recipe has no judge.behaviour, so no answer can be scored")
        decode = self.tokenizer.decode

        def score(text: Tokens) -> float:
            ids = text.ids[text.prompt_length :].tolist()
            return behaviour(str(decode(ids, skip_special_tokens=True)), len(ids))

        decoding = replace(decoding_of(self.base), max_new_tokens=self.recipe.judge.tokens, seed=seed)
        return Arena(Scorer(self.model), prompts, decoding, score)


def study_of(recipe: ConditionRecipe, parents: Sequence[Artifact]) -> Study:
    """Model, plans and marked prompts."""
    base = of_kind(BehaviourRecipe, make_recipe(parents[0].recipe), parents[0].ref)
    model, tokenizer = model_of(base.model)
    plan, patch = SteeringPlan.unpack(parents[0]), SteeringPlan.unpack(parents[-1])
    if recipe.condition.kind == "controller" and recipe.controller.blocks != "all":
        kept = tuple(step for step in patch.interventions if step.site.block in recipe.controller.blocks)
        patch = replace(patch, interventions=kept)
    if not patch.interventions:
        raise RecipeError(f"{recipe.controller.patch}: no intervention stands in blocks {recipe.controller.blocks}")
    return Study(recipe, base, model, tokenizer, plan, patch, _splits(recipe, tokenizer, base.form))


def compare(study: Study, conditioned: Mapping[str, SteeringPlan]) -> tuple[list[Selective], dict[str, Any]]:
    """The plan as published, the same at the mean price of the condition, and what is conditioned; on report prompts.
    Then how the mean price was matched: asked and achieved (nats per generated token, over all answers), reachable.

    Prices are matched on the validation prompts: a controller to what the plan costs where it is wanted, the second
    fixed plan to what the condition costs over all prompts.
    """
    matching = study.arena(_first(study.splits.validation, study.recipe.judge.prompts), seed=500)
    main = conditioned[_kind(study.recipe)]
    mean = matching.kl(main)
    cheaper, dose = _dosed(matching, study.plan, matching.prompts.prompts, mean)
    arena = study.arena(_first(study.splits.report, study.recipe.judge.prompts), seed=1000)
    base = arena.base_scores()
    contenders = {FIXED: study.plan, FIXED_SAME: cheaper, **conditioned}
    found = []
    for done, (name, plan) in enumerate(contenders.items()):
        report("selectivity", done, len(contenders))
        found.append(arena.run(name, plan, base))
    report("selectivity", len(contenders), len(contenders))
    achieved, reachable = (0.0, mean == 0) if dose is None else (dose.achieved, dose.reachable)
    return found, {"asked": mean, "achieved": achieved, "reachable": reachable}


def metrics_of(found: Sequence[Selective], about: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers by which versions are compared, of the last contender: the one that is published."""
    main = found[-1]
    return {
        "effect_wanted": asdict(main.wanted.effect),
        "effect_unwanted": asdict(main.unwanted.effect),
        "kl_wanted": asdict(main.wanted.kl),
        "kl_unwanted": asdict(main.unwanted.kl),
        "touched_unwanted": main.unwanted.touched,
        "true_positive": about["rates"]["true_positive"],
        "false_positive": about["rates"]["false_positive"],
        "auroc": about["rates"]["auroc"],
    }


def _condition(study: Study) -> tuple[dict[str, SteeringPlan], dict[str, Any]]:
    """Conditional plans by name, the one that is published last, and how it was made."""
    asked = study.recipe.condition
    kind = "linear" if asked.kind == "controller" else asked.kind
    settings = GateSettings(kind, asked.false_positive_rate, asked.pool)
    report("gate", 0, 1)
    fitted = fit_gate(Anatomy.of(study.model), study.splits, study.sites, settings)
    report("gate", 1, 1)
    gate = acting_gate(fitted.gate, asked)
    gated = gated_by(study.plan, [gate] * len(study.plan.interventions))
    about: dict[str, Any] = {
        "gate": {"site": str(fitted.gate.site), "threshold": fitted.gate.threshold, "by_site": dict(fitted.by_site)},
        "rates": asdict(fitted.rates),
        "length_auroc": fitted.length_auroc,
        "prompts": {name: len(getattr(study.splits, name).prompts) for name in ("fit", "validation", "report")},
    }
    if asked.kind != "controller":
        return {GATED: gated}, about
    controlled, learned = _controlled(study)
    return {GATED: gated, CONTROLLED: controlled}, {**about, **learned}


def acting_gate(gate: Scored, spec: ConditionSpec) -> Gate:
    """The fitted gate with the fields that the recipe gives it, under the recipe's schedule."""
    gate = replace(gate, **spec.fields)
    if spec.schedule is None:
        return gate
    return AllOf(gate, make_method(GATES, spec.schedule.gate, spec.schedule.fields))


def _controlled(study: Study) -> tuple[SteeringPlan, dict[str, Any]]:
    """The trained controller, dosed so that it costs on wanted prompts what the plan costs there."""
    asked, how = study.recipe.condition, study.recipe.controller
    wanted = study.splits.validation.side(True)[: study.recipe.judge.prompts]
    matching = study.arena(study.splits.validation, seed=500)
    budget = _calibration(matching, wanted).kl(study.plan)
    settings = ControllerSettings(
        how.hidden, how.steps, how.batch, how.learning_rate, how.tokens, budget,
        false_positive_rate=asked.false_positive_rate, pool=asked.pool, seed=how.seed,
    )  # fmt: skip
    # untrained, the controller holds every intervention at START: from the budget on, what it learns is where
    patch = _dosed(matching, study.patch, wanted, budget)[0].scaled(1 / START)
    taught = Taught(patch, study.plan)
    fitted = train_controller(study.model, taught, study.splits, study.sites, settings, report)
    plan, dose = _dosed(matching, fitted.plan, wanted, budget)
    learned = {
        "rates": asdict(fitted.rates),
        "weights": dict(fitted.weights),
        "history": [asdict(step) for step in fitted.history],
        "budget": budget,
        "dose": None if dose is None else {"achieved": dose.achieved, "reachable": dose.reachable},
    }
    return plan, learned


def _dosed(
    arena: Arena, plan: SteeringPlan, prompts: Sequence[Tokens], target: float
) -> tuple[SteeringPlan, Dose | None]:
    """At the price asked, or as near below as it gets; at strength 0 for the price of a condition that never opens."""
    if target <= 0:
        return plan.scaled(0.0), None
    return dose_on(_calibration(arena, prompts), plan, target, Dosing(tolerance=0.15))


def _calibration(arena: Arena, prompts: Sequence[Tokens]) -> Calibration:
    return Calibration(arena.scorer, prompts, arena.decoding)


def _answers(study: Study, plan: SteeringPlan) -> list[dict[str, Any]]:
    """Greedy answers to held-out prompts of both sides."""
    decoding, found = Decoding(40, temperature=0.0), []
    for wanted in (True, False):
        prompts = study.splits.report.side(wanted)[:SHOWN]
        written = [generate(study.model, prompts, one, decoding) for one in (None, study.plan, plan)]
        for prompt, *ids in zip(prompts, *written, strict=True):
            texts = [str(study.tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in ids]
            said = prompt.ids[np.isin(prompt.roles, (Role.USER, Role.TEXT))].tolist()
            names = ("base", "fixed", "conditional")
            found.append(
                {
                    "prompt": str(study.tokenizer.decode(said)).strip(),
                    "wanted": wanted,
                    **dict(zip(names, texts, strict=True)),
                }
            )
    return found


def _first(labelled: Labelled, each: int) -> Labelled:
    """The first prompts of each side."""
    kept = np.sort(np.concatenate([np.flatnonzero(labelled.wanted == side)[:each] for side in (True, False)]))
    return Labelled([labelled.prompts[k] for k in kept], labelled.wanted[kept])


def _splits(recipe: ConditionRecipe, tokenizer: PreTrainedTokenizerBase, form: PromptFormat) -> Splits:
    rows = labelled_rows(recipe.data)
    parts = []
    for split in ("fit", "select", "report"):
        prompts = [tokenize(tokenizer, prompt, form=form) for prompt, _ in rows[split]]
        try:
            parts.append(Labelled(prompts, np.array([wanted for _, wanted in rows[split]], dtype=bool)))
        except SteeringError as error:
            raise DataError(f"{recipe.data.prompts.path}: split '{split}': {error}") from None
    return Splits(*parts)


def _parents(recipe: ConditionRecipe, home: Home) -> list[Artifact]:
    """The plan, and the patch of a controller when it is another."""
    plan = home.catalog.get(recipe.plan)
    if plan.kind != "plan":
        raise RecipeError(f"plan: {plan.ref} is a {plan.kind}; a condition is for a published plan")
    if plan.header.get("condition") or BASE in plan.header:
        raise RecipeError(f"plan: {plan.ref} acts under a condition already; name the plan that it was made of")
    patch = recipe.controller.patch
    return [plan] if patch is None or recipe.condition.kind != "controller" else [plan, home.catalog.get(patch)]


def _kind(recipe: ConditionRecipe) -> str:
    return CONTROLLED if recipe.condition.kind == "controller" else GATED
