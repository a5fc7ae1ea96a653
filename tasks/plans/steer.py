"""Steer: prompts answered by a published plan beside the unsteered model, with the nats it spent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.errors import SteeringError
from trimtab.steering.features.feature_set import KIND, FeatureSet
from trimtab.steering.governing.governor import Governor, Ledger
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Tokens, tokenize
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.price.dose import Dosing, dose_on
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, generate
from trimtab.store import Artifact
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.features.views import pinned, split_ref
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.base import ModelRecipe
from trimtab.tasks.recipes.kinds import make_recipe
from trimtab.tasks.recipes.of_plan import base_values
from trimtab.tasks.registry.trust import require_trusted

DOSING_ROLLOUTS = 8  # sampled answers per prompt set on which `kl` is dosed


@dataclass(frozen=True)
class SteerSettings:
    """strength multiplies the published one; kl asks for a dose instead (nats per token on these prompts). govern
    bounds every token, govern_total the whole answer (nats), of the distribution that is sampled from. temperature: 0
    is greedy; all nats are taken at it (greedy: at 1). chat: prompts through the chat template, or plain; None: as the
    plan's recipe has it, and for a feature, which has none, chat where it can be."""

    strength: float = 1.0
    kl: float | None = None
    govern: float | None = None
    govern_total: float | None = None
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    chat: bool | None = None

    @property
    def governor(self) -> Governor | None:
        """The bound asked for, if any."""
        if self.govern is None and self.govern_total is None:
            return None
        return Governor(float("inf") if self.govern is None else self.govern, self.govern_total)

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.max_new_tokens, self.temperature, self.seed)


@dataclass(frozen=True)
class Steered:
    """prompt, and what the base and the steered model answer. kl: KL(steered || base), mean nats per token of the
    steered answer; total: over the answer. held_back: share of tokens at which the governor acted (None: none set)."""

    prompt: str
    base: str
    steered: str
    kl: float
    total: float
    tokens: int
    held_back: float | None = None


@dataclass(frozen=True)
class SteeredAnswers:
    """ref, digest: what steered. strength: times the published one. kl_temperature: at which all nats were taken."""

    ref: str
    digest: str
    strength: float
    answers: tuple[Steered, ...]
    kl_temperature: float = 1.0


def steer_prompts(ref: str, prompts: Sequence[str], home: Home, settings: SteerSettings) -> SteeredAnswers:
    """Answer prompts with and without the plan of `ref` (or a feature of a set, `name:17`), on its recipe's model.

    Raises StoreError (no such version), SteeringError (not a plan; a KL that cannot be reached).
    """
    name, number = split_ref(ref)
    artifact = home.catalog.get(name)
    require_trusted(home, artifact)
    plan, recipe = plan_of(artifact, number)
    model, tokenizer = model_of(recipe.model)
    form, chat = recipe.form, settings.chat
    if chat is None and number is not None:
        chat = bool(tokenizer.chat_template)
    form = form if chat is None else replace(form, chat=chat)
    tokens = [tokenize(tokenizer, prompt, form=form) for prompt in prompts]
    check_length(model, tokens, settings.max_new_tokens)
    strength = settings.strength if settings.kl is None else dosed_strength(model, plan, tokens, settings)
    base = generate(model, tokens, None, settings.decoding)
    answers = []
    for prompt, text, unsteered in zip(prompts, tokens, base, strict=True):
        steered = _answer(model, text, plan.scaled(strength), settings)
        answers.append(_shown(tokenizer, prompt, unsteered, steered))
    return SteeredAnswers(
        pinned(artifact, number), artifact.digest, strength, tuple(answers), settings.decoding.sampling.kl_temperature
    )


def check_length(model: PreTrainedModel, prompts: Sequence[Tokens], answer: int) -> None:
    """Raises RecipeError for a prompt that, with its answer, is longer than what the model was made for."""
    limit = Anatomy.of(model).max_tokens
    longest = max(map(len, prompts))
    if limit is not None and longest + answer > limit:
        raise RecipeError(
            f"PROMPT: {longest} tokens and an answer of {answer} are more than the model's {limit} positions; shorten "
            f"the prompt, or give fewer --tokens"
        )


def plan_of(artifact: Artifact, number: int | None) -> tuple[SteeringPlan, ModelRecipe]:
    """A published plan, or feature `number` of a published set, and the recipe that says how prompts
    are put to it. Raises RecipeError."""
    return steering_of(artifact, number), recipe_of_plan(artifact)


def steering_of(artifact: Artifact, number: int | None) -> SteeringPlan:
    """A published plan, or feature `number` of a published set. Raises RecipeError for any other kind."""
    if artifact.kind == KIND:
        if number is None:
            raise RecipeError(f"{artifact.ref} is a feature set; say which feature, for example {artifact.ref}:17")
        return FeatureSet.unpack(artifact).plan(number)
    if number is not None or artifact.kind != "plan":
        expected, kind = ("plan", "plan") if number is None else ("feature set", KIND)
        raise RecipeError(
            f"{artifact.ref} is a {artifact.kind}, not a {expected}; `trimtab ls --kind {kind}` lists them"
        )
    return SteeringPlan.unpack(artifact)


def recipe_of_plan(artifact: Artifact) -> ModelRecipe:
    """The recipe that says on which model a plan acts and how prompts are put to it. Raises RecipeError when the
    artifact carries none."""
    recipe = make_recipe(base_values(artifact))
    if not isinstance(recipe, ModelRecipe):
        raise RecipeError(f"{artifact.ref}: its recipe, of kind '{recipe.kind}', names no model")
    return recipe


def dosed_strength(
    model: PreTrainedModel, plan: SteeringPlan, prompts: Sequence[Tokens], settings: SteerSettings
) -> float:
    """The strength at which sampled answers cost `settings.kl` nats per token, at the settings' temperature (1 when
    greedy). Raises SteeringError when none does."""
    repeats = -(-DOSING_ROLLOUTS // len(prompts))
    decoding = Decoding(min(settings.max_new_tokens, 32), settings.decoding.sampling.kl_temperature, settings.seed)
    calibration = Calibration(Scorer(model), [*prompts] * repeats, decoding)
    _, dose = dose_on(calibration, plan, settings.kl or 0.0, Dosing())
    if not dose.reachable:
        raise SteeringError(
            f"no strength costs {settings.kl:g} nats per token on this prompt: the dearest below it costs "
            f"{dose.achieved:.3g} at strength {dose.strength:.3g}; ask for less, or bound it with --govern"
        )
    return dose.strength


@dataclass(frozen=True)
class _Answer:
    ids: list[int]
    kl: np.ndarray
    held_back: float | None


def _answer(model: PreTrainedModel, text: Tokens, plan: SteeringPlan, settings: SteerSettings) -> _Answer:
    if settings.governor is not None:
        with plan.on(model, prompt_lengths=[text.prompt_length], govern=settings.governor) as session:
            ids = generate(model, [text], None, settings.decoding)[0]
        ledger = session.ledger or Ledger()
        return _Answer(ids, np.array([float(step[0]) for step in ledger.spent]), ledger.held_back())
    ids = generate(model, [text], plan, settings.decoding)[0]
    kl = divergences(Scorer(model), [text.followed_by(ids)], steered_from_base(plan, settings.decoding.sampling))[0]
    return _Answer(ids, kl, None)


def _shown(tokenizer: PreTrainedTokenizerBase, prompt: str, base: list[int], steered: _Answer) -> Steered:
    def read(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    mean = float(steered.kl.mean()) if len(steered.kl) else 0.0
    answer = Steered(prompt, read(base), read(steered.ids), mean, float(steered.kl.sum()), len(steered.ids))
    return replace(answer, held_back=steered.held_back)
