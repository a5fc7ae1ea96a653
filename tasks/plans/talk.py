"""A conversation with the steered model."""

import math
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.engines.expression import Steering
from trimtab.steering.errors import BadExpression
from trimtab.steering.model.tokens import CHAT, tokenize
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, generate
from trimtab.tasks.features.views import split_ref
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.steer import check_length, plan_of


@dataclass(frozen=True)
class Reply:
    """text of an answer; nats: KL(steered || base) over it; tokens: written."""

    text: str
    nats: float
    tokens: int


@dataclass
class Talk:
    """model, tokenizer: of the first plan's recipe. plan: at its published strength. label: its pinned versions.
    strength: times that. turns: messages so far."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plan: SteeringPlan
    label: str
    decoding: Decoding
    strength: float = 1.0
    turns: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def begin(cls, expression: str, home: Home, strength: float, tokens: int, temperature: float, seed: int) -> "Talk":
        """Raises BadExpression, StoreError or RecipeError for an expression that cannot steer."""
        terms = Steering.parse(expression).terms
        if not terms:
            raise BadExpression("PLAN is empty; name a plan, for example cheerful@prod")
        parts, spec = [], None
        for term in terms:
            name, feature = split_ref(term.ref)
            artifact = home.catalog.get(name)
            plan, recipe = plan_of(artifact, feature)
            spec = spec or recipe.model
            parts.append((plan.scaled(term.factor), f"{term.factor:g} {artifact.ref}"))
        assert spec is not None
        model, tokenizer = model_of(spec)
        total = parts[0][0]
        for plan, _ in parts[1:]:
            total = total + plan
        label = " + ".join(label for _, label in parts)
        talk = cls(model, tokenizer, total, label, Decoding(tokens, temperature, seed))
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
        prompt = tokenize(self.tokenizer, turns, form=CHAT)
        check_length(self.model, [prompt], self.decoding.max_new_tokens)
        plan = self.plan.scaled(self.strength)
        ids = generate(self.model, [prompt], plan, self.decoding)[0]
        direction = steered_from_base(plan, self.decoding.sampling)
        nats = divergences(Scorer(self.model), [prompt.followed_by(ids)], direction)[0]
        answer = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        self.turns = [*turns, {"role": "assistant", "content": answer}]
        return Reply(answer, float(nats.sum()), len(ids))
