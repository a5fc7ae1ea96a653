"""A conversation with the steered model."""

import math
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.engines.expression import Steering, Term
from trimtab.steering.errors import BadExpression
from trimtab.steering.model.tokens import PromptFormat, tokenize
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, generate
from trimtab.tasks.features.views import pinned, split_ref
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.steer import check_length, plan_of
from trimtab.tasks.recipes.base import ModelRecipe


@dataclass(frozen=True)
class Reply:
    """text of an answer; nats: KL(steered || base) over it; tokens: written."""

    text: str
    nats: float
    tokens: int


@dataclass
class Talk:
    """model, tokenizer, form: of the first plan's recipe, always a chat. plan: at its published strength. label: its
    pinned versions. strength: times that. turns: messages so far."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plan: SteeringPlan
    label: str
    decoding: Decoding
    form: PromptFormat
    strength: float = 1.0
    turns: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def begin(cls, expression: str, home: Home, strength: float, tokens: int, temperature: float, seed: int) -> "Talk":
        """Raises BadExpression, StoreError or RecipeError for an expression that cannot steer."""
        terms = Steering.parse(expression).terms
        if not terms:
            raise BadExpression("PLAN is empty; name a plan, for example cheerful@prod")
        parts = [_read(term, home) for term in terms]
        recipe = parts[0].recipe
        model, tokenizer = model_of(recipe.model)
        plan, label = reduce(add, (part.plan for part in parts)), " + ".join(part.label for part in parts)
        form = replace(recipe.form, chat=True)
        talk = cls(model, tokenizer, plan, label, Decoding(tokens, temperature, seed), form)
        talk.strengthen(strength)
        return talk

    def strengthen(self, strength: float) -> None:
        """Steer with so many times the plan from now on. Raises ValueError when that is no finite number."""
        if not math.isfinite(strength):
            raise ValueError(strength)
        self.strength = strength

    def forget(self) -> None:
        """Begin anew."""
        self.turns.clear()

    def say(self, text: str) -> Reply:
        """The answer to the next turn. Raises RecipeError when the conversation is too long for the model."""
        turns = [*self.turns, {"role": "user", "content": text}]
        prompt = tokenize(self.tokenizer, turns, form=self.form)
        check_length(self.model, [prompt], self.decoding.max_new_tokens)
        plan = self.plan.scaled(self.strength)
        ids = generate(self.model, [prompt], plan, self.decoding)[0]
        direction = steered_from_base(plan, self.decoding.sampling)
        nats = divergences(Scorer(self.model), [prompt.followed_by(ids)], direction)[0]
        answer = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        self.turns = [*turns, {"role": "assistant", "content": answer}]
        return Reply(answer, float(nats.sum()), len(ids))


@dataclass(frozen=True, eq=False)
class _Part:
    """plan: of one term, times its factor. label: its pinned version with the factor. recipe: that made it."""

    plan: SteeringPlan
    label: str
    recipe: ModelRecipe


def _read(term: Term, home: Home) -> _Part:
    name, feature = split_ref(term.ref)
    artifact = home.catalog.get(name)
    plan, recipe = plan_of(artifact, feature)
    return _Part(plan.scaled(term.factor), str(Term(pinned(artifact, feature), term.factor)), recipe)
