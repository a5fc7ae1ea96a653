"""Condition: a gate or a controller for a published plan, compared on held-out prompts with the plan itself at its own
price and at the same mean price, and published as a plan of its own."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.steering.conditions.controller import ControllerSettings, gated_by
from trimtab.steering.conditions.fit_gate import GateSettings, fit_gate
from trimtab.steering.conditions.prompts import Labelled, Splits
from trimtab.steering.conditions.selectivity import Score, Selective
from trimtab.steering.conditions.study import CONTROLLED, GATED, DosedController, Study, compare, dosed_controller
from trimtab.steering.errors import SteeringError
from trimtab.steering.gates import GATES, Gate
from trimtab.steering.gates.all_of import AllOf
from trimtab.steering.gates.base import Scored
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import PromptFormat, Role, Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.writing import Decoding, generate
from trimtab.store.catalog.artifact import Artifact
from trimtab.tasks.data.marked_prompts import marked_prompts
from trimtab.tasks.data.prompts import tokens_of
from trimtab.tasks.data.sections import SPLITS
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
from trimtab.tasks.step import Product, Step, as_task

SHOWN = 3  # answers of each side in the header
KIND = "selectivity"


def condition_recipe(recipe: ConditionRecipe, home: Home) -> tuple[Reference, Reference]:
    """Publish `<name>.selectivity` and `<name>`, the conditional plan; both are returned as they are when the catalog
    holds them already. Raises RecipeError, DataError, StoreError or SteeringError: one line each."""
    parents = _parents(recipe, home)
    key, values = recipe.stage("condition", (parents[0].digest, parents[-1].digest)), recipe.to_json()
    refs = list(dict.fromkeys(parent.ref for parent in parents))
    evidence_step = Step(f"{recipe.name}.{KIND}", KIND, f"{key}/{KIND}", values, refs)
    plan_step = Step(recipe.name, "plan", f"{key}/{recipe.name}", values)
    evidence, plan = evidence_step.find(home), plan_step.find(home)
    if evidence is not None and plan is not None:
        return evidence, plan
    started = time.monotonic()
    conditional, product, metrics = _compared(recipe, study_of(recipe, parents))
    evidence = evidence_step.publish(home, product.timed(time.monotonic() - started))
    packed = conditional.pack()
    header = {**packed.header, BASE: parents[0].recipe}
    plan_step = replace(plan_step, parents=[evidence.ref])
    return evidence, plan_step.publish(home, Product(packed.arrays, header, metrics))


condition_task = as_task("condition", condition_recipe)


@dataclass(frozen=True, eq=False)
class Condition:
    """study: the plans and prompts that are compared. tokenizer: of the model, to show answers."""

    study: Study
    tokenizer: PreTrainedTokenizerBase


def _compared(recipe: ConditionRecipe, condition: Condition) -> tuple[SteeringPlan, Product, dict[str, Any]]:
    """The conditional plan, the evidence that is published beside it, and the numbers that versions are compared by."""
    conditional, about = _conditional(recipe, condition.study)
    plan = list(conditional.values())[-1]
    comparison = compare(condition.study, conditional, report)
    matched = {"asked": comparison.target, "achieved": comparison.achieved, "reachable": comparison.reachable}
    header = {
        "kind": KIND,
        "condition": recipe.to_json(),
        "about": about,
        "matched": matched,
        "contenders": [contender.to_json() for contender in comparison.contenders],
        "answers": _answers(condition, plan),
    }
    return plan, Product({}, header), metrics_of(comparison.contenders, about)


def study_of(recipe: ConditionRecipe, parents: Sequence[Artifact]) -> Condition:
    """Model, plans and marked prompts."""
    base = of_kind(BehaviourRecipe, make_recipe(parents[0].recipe), parents[0].ref)
    model, tokenizer = model_of(base.model)
    plan, patch = SteeringPlan.unpack(parents[0]), SteeringPlan.unpack(parents[-1])
    if recipe.condition.kind == "controller" and recipe.controller.blocks != "all":
        in_blocks = tuple(step for step in patch.interventions if step.site.block in recipe.controller.blocks)
        patch = replace(patch, interventions=in_blocks)
    if not patch.interventions:
        raise RecipeError(f"{recipe.controller.patch}: no intervention stands in blocks {recipe.controller.blocks}")
    blocks = None if recipe.condition.blocks == "all" else recipe.condition.blocks
    study = Study(
        model,
        plan,
        patch,
        splits=_splits(recipe, tokenizer, base.form),
        sites=Anatomy.of(model).sites([recipe.condition.point], blocks),
        score=_score_of(recipe, base, tokenizer),
        decoding=replace(decoding_of(base), max_new_tokens=recipe.judge.tokens),
        prompts=recipe.judge.prompts,
    )
    return Condition(study, tokenizer)


def _score_of(recipe: ConditionRecipe, base: BehaviourRecipe, tokenizer: PreTrainedTokenizerBase) -> Score:
    """Behaviour of a written text, as the plan's own recipe scores it."""
    behaviour = behaviour_of(base)
    if behaviour is None:
        raise RecipeError(f"{recipe.plan}: its recipe has no judge.behaviour, so no answer can be scored")

    def score(text: Tokens) -> float:
        ids = text.ids[text.prompt_length :].tolist()
        return behaviour(str(tokenizer.decode(ids, skip_special_tokens=True)), len(ids))

    return score


def metrics_of(contenders: Sequence[Selective], about: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers by which versions are compared, of the last contender: the one that is published."""
    published = contenders[-1]
    return {
        "effect_wanted": asdict(published.wanted.effect),
        "effect_unwanted": asdict(published.unwanted.effect),
        "kl_wanted": asdict(published.wanted.kl),
        "kl_unwanted": asdict(published.unwanted.kl),
        "touched_unwanted": published.unwanted.touched,
        "true_positive": about["rates"]["true_positive"],
        "false_positive": about["rates"]["false_positive"],
        "auroc": about["rates"]["auroc"],
    }


def _conditional(recipe: ConditionRecipe, study: Study) -> tuple[dict[str, SteeringPlan], dict[str, Any]]:
    """Conditional plans by name, the one that is published last, and how it was made."""
    spec = recipe.condition
    kind = "linear" if spec.kind == "controller" else spec.kind
    report("gate", 0, 1)
    settings = GateSettings(kind, spec.false_positive_rate, spec.pool)
    fit = fit_gate(Anatomy.of(study.model), study.splits, list(study.sites), settings)
    report("gate", 1, 1)
    gate = acting_gate(fit.gate, spec)
    gated = gated_by(study.plan, [gate] * len(study.plan.interventions))
    about: dict[str, Any] = {
        "gate": {"site": str(fit.gate.site), "threshold": fit.gate.threshold, "by_site": dict(fit.by_site)},
        "rates": asdict(fit.rates),
        "length_auroc": fit.length_auroc,
        "prompts": {name: len(getattr(study.splits, name).prompts) for name in ("fit", "validation", "report")},
    }
    if spec.kind != "controller":
        return {GATED: gated}, about
    controller = dosed_controller(study, _controller_settings(recipe), report)
    return {GATED: gated, CONTROLLED: controller.plan}, {**about, **_about_controller(controller)}


def acting_gate(gate: Scored, spec: ConditionSpec) -> Gate:
    """The fitted gate with the fields that the recipe gives it, under the recipe's schedule."""
    gate = replace(gate, **spec.fields)
    if spec.schedule is None:
        return gate
    return AllOf(gate, make_method(GATES, spec.schedule.gate, spec.schedule.fields))


def _controller_settings(recipe: ConditionRecipe) -> ControllerSettings:
    spec, condition = recipe.controller, recipe.condition
    return ControllerSettings(
        spec.hidden,
        spec.steps,
        spec.batch,
        spec.learning_rate,
        spec.tokens,
        false_positive_rate=condition.false_positive_rate,
        pool=condition.pool,
        seed=spec.seed,
    )


def _about_controller(controller: DosedController) -> dict[str, Any]:
    fit, dose = controller.fit, controller.dose
    return {
        "rates": asdict(fit.rates),
        "weights": dict(fit.weights),
        "history": [asdict(step) for step in fit.history],
        "budget": controller.budget,
        "dose": None if dose is None else {"achieved": dose.achieved, "reachable": dose.reachable},
    }


def _answers(condition: Condition, plan: SteeringPlan) -> list[dict[str, Any]]:
    """Greedy answers to held-out prompts of both sides."""
    study, tokenizer = condition.study, condition.tokenizer
    decoding, answers = Decoding(40, temperature=0.0), []
    for wanted in (True, False):
        prompts = study.splits.report.side(wanted)[:SHOWN]
        written = [generate(study.model, prompts, one, decoding) for one in (None, study.plan, plan)]
        for prompt, *ids in zip(prompts, *written, strict=True):
            texts = [str(tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in ids]
            words = prompt.ids[np.isin(prompt.roles, (Role.USER, Role.TEXT))].tolist()
            by_plan = dict(zip(("base", "fixed", "conditional"), texts, strict=True))
            answers.append({"prompt": str(tokenizer.decode(words)).strip(), "wanted": wanted, **by_plan})
    return answers


def _splits(recipe: ConditionRecipe, tokenizer: PreTrainedTokenizerBase, form: PromptFormat) -> Splits:
    examples = marked_prompts(recipe.data)
    parts = []
    for split in SPLITS:
        in_split = [example for example in examples if example.split == split]
        prompts = [tokens_of(tokenizer, example, form) for example in in_split]
        try:
            parts.append(Labelled(prompts, np.array([example.label > 0 for example in in_split], dtype=bool)))
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
