"""Validate: candidate vectors to a verdict at the recipe's KL budget, published as `<name>.verdict` with the dosed
plan inside."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.fitters import FITTERS
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.judge.answering import ExamQuestion
from trimtab.steering.judge.behaviour import BehaviourScorer, Brevity, Language, Lexicon
from trimtab.steering.judge.candidates import Candidates, ModelRefit, Refit, RowRefit
from trimtab.steering.judge.judge import dosed_plan, judge
from trimtab.steering.judge.judge_input import JudgeInput, Texts
from trimtab.steering.judge.placebo import PlaceboCounts
from trimtab.steering.judge.search import Search
from trimtab.steering.judge.settings import AblationChoice, DoseSettings, JudgeSettings, PriceSettings
from trimtab.steering.judge.verdict import Generation
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import PromptFormat, tokenize
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.contrast import Contrast
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding
from trimtab.store import ActivationStore
from trimtab.tasks.data.examples import ExamplePair
from trimtab.tasks.data.judging import capability_pairs, function_words, known_questions, neutral_texts, read_lexicon
from trimtab.tasks.data.prompts import Text, couples, form_of, texts_of, tokens_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.fit import contrast_of
from trimtab.tasks.plans.learning import RESPONSES, candidates_of, examples_of, sites_of
from trimtab.tasks.plans.placebos import PublishedNulls
from trimtab.tasks.progress import report, say
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.methods import make_method
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.step import Product, Step, as_task

PLAIN = PromptFormat(chat=False)
SHOWN_ANSWERS = 2  # before the verdict


def validate_recipe(
    recipe: BehaviourRecipe, home: Home, capture: CaptureReference, candidates: Sequence[Reference]
) -> Reference:
    """Judge the first fitter's candidates, with those of the others as rivals at the same price.

    A verdict with the same stage key is returned as it is. Raises SteeringError when texts give no interval.
    """

    def verdict_and_plan() -> Product:
        inputs = judge_input(recipe, home, capture, candidates)
        verdict = judge(inputs, report)
        plan = dosed_plan(inputs, verdict).pack()
        return Product(plan.arrays, {"kind": "verdict", "verdict": verdict.to_json(), "plan": dict(plan.header)})

    parents = [candidate.ref for candidate in candidates]
    key = recipe.stage("validate")
    step = Step(f"{recipe.name}.verdict", "verdict", key, recipe.to_json(), parents, timed=True)
    return step.find_or_publish(home, verdict_and_plan)


validate_task = as_task("validate", validate_recipe)


def judge_input(
    recipe: BehaviourRecipe, home: Home, capture: CaptureReference, candidates: Sequence[Reference]
) -> JudgeInput:
    """Everything the judge needs, from the recipe, the capture and the candidates' vectors."""
    model, tokenizer = model_of(recipe.model)
    texts = judged_texts(recipe, tokenizer)
    settings = settings_of(recipe)
    by_fitter = {
        fitter: candidates_of(home.catalog.get(reference.ref))
        for fitter, reference in zip(recipe.fit.fitters, candidates, strict=True)
    }
    ours = by_fitter.pop(recipe.fit.fitter)
    store = ActivationStore.open(capture.url)
    contrast = contrast_of(store, recipe, "fit", _captured_sites(store, recipe, ours))
    return JudgeInput(
        name=recipe.name,
        model=model,
        candidates=ours,
        refit=_refit(recipe, store, contrast, ours),
        fitter_name=recipe.fit.fitter,
        contrast=contrast,
        texts=texts,
        budget=recipe.budget.kl,
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        behaviour=behaviour_of(recipe),
        rivals={fitter: _best(model, plans, texts, settings, recipe.budget.kl) for fitter, plans in by_fitter.items()},
        request=recipe.judge.system_prompt or "",
        settings=settings,
        tell=lambda generations: say(first_answers(recipe.name, generations)),
        nulls=PublishedNulls(recipe, home, capture),
        responses=RESPONSES,
    )


def _refit(recipe: BehaviourRecipe, store: ActivationStore, contrast: Contrast, candidates: Candidates) -> Refit:
    """The fitter once more, on shuffled labels."""
    method = make_method(FITTERS, recipe.fit.fitter, recipe.fit.fields)
    if not isinstance(method, ModelFitter):
        return RowRefit(method, contrast, candidates)
    model, _ = model_of(recipe.model)
    return ModelRefit(method, Anatomy.of(model), examples_of(recipe), sites_of(store, recipe.fit.point))


def _captured_sites(store: ActivationStore, recipe: BehaviourRecipe, candidates: Candidates) -> list[Site]:
    """Where rows are needed: at the recipe's point, and where candidates act."""
    captured = set(map(Site.parse, store.sites))
    acting = {site.whole for plan in candidates.values() for site in plan.sites}
    return sorted({*sites_of(store, recipe.fit.point), *(acting & captured)})


def first_answers(name: str, generations: Sequence[Generation]) -> str:
    """What is shown while the judgement goes on: a few prompts answered with and without the plan at its dose."""
    lines = [f"first answers of {name} at its dose; what they cost beside placebos follows"]
    for one in generations[:SHOWN_ANSWERS]:
        base, steered = (" ".join(text.split()) for text in (one.base, one.steered))
        lines += ["", f"> {one.prompt}", f"  without: {base}", f"  steered: {steered}"]
    return "\n".join([*lines, ""])


def judged_texts(recipe: BehaviourRecipe, tokenizer: PreTrainedTokenizerBase) -> Texts:
    """The select and report pairs, the report pairs again with the words that ask for the behaviour, neutral text and
    capability items."""
    texts, form = texts_of(recipe.data, tokenizer), form_of(recipe.data)
    report_pairs = couples(texts, "report")
    requesting: list[AnswerPair] = []
    if recipe.judge.system_prompt and recipe.data.chat:
        asking = form_of(recipe.data, recipe.judge.system_prompt)
        requesting = [_tokenised(tokenizer, (first[0], second[0]), asking) for first, second in report_pairs]
    return Texts(
        select=[_pair(couple) for couple in couples(texts, "select")],
        report=[_pair(couple) for couple in report_pairs],
        neutral=[tokenize(tokenizer, text, form=PLAIN) for text in neutral_texts(recipe.judge.neutral)],
        requesting=requesting,
        capability=[_tokenised(tokenizer, pair, form) for pair in capability_pairs(recipe.judge.capability)],
        exam=_exam(recipe, tokenizer),
        fit=[_pair(couple) for couple in couples(texts, "fit")],
    )


def settings_of(recipe: BehaviourRecipe) -> JudgeSettings:
    """The judge's settings from the recipe's section. Doses are calibrated on half as many prompts as the price is
    taken on, each of the placebos needs several; on answers as long, because KL changes along an answer."""
    how = recipe.judge
    calibration = decoding_of(recipe)
    return JudgeSettings(
        dose=DoseSettings(max(how.prompts // 2, 2), calibration, tolerance=recipe.budget.tolerance),
        price=PriceSettings(prompts=how.prompts, decoding=replace(calibration, seed=1000)),
        ablation=AblationChoice(pairs=10 if how.system_prompt else 0),
        placebos=PlaceboCounts(
            how.placebos.random, how.placebos.covariance, how.placebos.shuffled, int(how.placebos.flip)
        ),
        placebo_pairs=40,
        curve=how.curve,
        seed=recipe.seed,
    )


def decoding_of(recipe: BehaviourRecipe) -> Decoding:
    """How the recipe's roll-outs are drawn."""
    how = recipe.budget.sampling
    return Decoding(recipe.judge.tokens, how.temperature, top_k=how.top_k, top_p=how.top_p)


def behaviour_of(recipe: BehaviourRecipe) -> BehaviourScorer | None:
    """The scorer of generated text that the recipe asks for."""
    behaviour = recipe.judge.behaviour
    if behaviour is None:
        return None
    if behaviour.lexicon is not None:
        words = read_lexicon(behaviour.lexicon)
        return Lexicon(words["positive"], words["negative"])
    if behaviour.language is not None:
        lexicons = function_words()
        others = [word for language, words in lexicons.items() if language != behaviour.language for word in words]
        return Language(lexicons[behaviour.language], others)
    return Brevity()


def _best(
    model: PreTrainedModel, plans: Candidates, texts: Texts, settings: JudgeSettings, budget: float
) -> SteeringPlan:
    """A rival's best candidate by the same search that chooses ours."""
    cut = [pair.shortened(settings.completion_tokens) for pair in texts.select]
    search = Search(Scorer(model), cut, budget, settings.search, settings.seed, RESPONSES)
    return search([plans], report)[0].plan


def _pair(couple: tuple[Text, Text]) -> AnswerPair:
    (_, positive), (_, negative) = couple
    return AnswerPair(positive, negative)


def _tokenised(tokenizer: PreTrainedTokenizerBase, pair: ExamplePair, form: PromptFormat) -> AnswerPair:
    positive, negative = (tokens_of(tokenizer, example, form) for example in pair)
    return AnswerPair(positive, negative)


def _exam(recipe: BehaviourRecipe, tokenizer: PreTrainedTokenizerBase) -> list[ExamQuestion]:
    """The questions with known answers, each also with the system prompt that asks for the behaviour."""
    form, request = form_of(recipe.data), recipe.judge.system_prompt
    asking = form_of(recipe.data, request) if request and recipe.data.chat else None
    return [
        ExamQuestion(
            tokenize(tokenizer, example.prompt, form=form),
            str(example.completion),
            None if asking is None else tokenize(tokenizer, example.prompt, form=asking),
        )
        for example in known_questions(recipe.judge.questions)
    ]
