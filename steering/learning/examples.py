"""Examples: what a method that learns through the model is given."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, Span
from trimtab.steering.model.tokens import CHAT, PromptFormat, Tokens, tokenize
from trimtab.steering.price.pulls import Labels
from trimtab.steering.price.response import LinearResponse, Responses
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.padded_texts import check_completions


@dataclass(frozen=True, eq=False)
class Examples:
    """What a method learns from. Raises SteeringError when there are fewer than two pairs, or an empty completion.

    pairs: wanted and unwanted completions; the method is fitted to them.
    held_out: pairs on which it may choose its hyper-parameters and when to stop (empty: it keeps its defaults and its
        last step).
    span: tokens on which the plan will act.
    budget: nats of KL per token that the plan may cost; strength 1 is meant to spend it.
    seed: of every draw.
    responses: how texts respond to additions, which shuffled examples share, and whoever else was given it.
    """

    pairs: tuple[AnswerPair, ...]
    held_out: tuple[AnswerPair, ...] = ()
    span: Span = ALL
    budget: float = 0.1
    seed: int = 0
    responses: Responses = field(default_factory=Responses, repr=False)

    def __post_init__(self) -> None:
        if len(self.pairs) < 2:
            raise SteeringError(f"{len(self.pairs)} pairs of answers teach nothing; give at least 2")
        check_completions(texts_of([*self.pairs, *self.held_out]))

    @classmethod
    def from_pairs(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Sequence[tuple[str, str, str]],
        held_out: Sequence[tuple[str, str, str]] = (),
        span: str | Span = ALL,
        budget: float = 0.1,
        form: PromptFormat = CHAT,
    ) -> "Examples":
        """From texts. pairs, held_out: (prompt, wanted answer, unwanted answer). form: how prompts become text; by
        default through the tokenizer's chat template. Raises SteeringError for pairs of another form or without words
        to learn from."""
        odd = next((pair for pair in (*pairs, *held_out) if len(pair) != 3), None)
        if odd is not None:
            raise SteeringError(f"{len(odd)} texts are no example: give (prompt, wanted answer, unwanted answer)")
        answers = [
            [AnswerPair(*(tokenize(tokenizer, prompt, answer, form) for answer in both)) for prompt, *both in part]
            for part in (pairs, held_out)
        ]
        return cls(tuple(answers[0]), tuple(answers[1]), Span.parse(span), budget)

    def shuffled(self, generator: torch.Generator) -> "Examples":
        """The same with exactly half of the pairs' labels exchanged, of those fitted and of those held out."""
        pairs, held_out = (_half_swapped(pairs, generator) for pairs in (self.pairs, self.held_out))
        return replace(self, pairs=pairs, held_out=held_out)

    def response(self, anatomy: Anatomy, sites: Iterable[Site], draws: int) -> LinearResponse:
        """How the texts of the pairs respond to vectors added at sites on the span's tokens. draws: labels per token
        from which costs are known."""
        return self._response(self.pairs, anatomy, sites, draws)

    def held_out_response(self, anatomy: Anatomy, sites: Iterable[Site], draws: int) -> LinearResponse:
        """The same of the held-out texts."""
        return self._response(self.held_out, anatomy, sites, draws)

    def _response(
        self, pairs: Sequence[AnswerPair], anatomy: Anatomy, sites: Iterable[Site], draws: int
    ) -> LinearResponse:
        places = [(site, self.span) for site in sites]
        return self.responses.of(anatomy.model, texts_of(pairs), places, Labels(draws, self.seed))


def texts_of(pairs: Sequence[AnswerPair]) -> list[Tokens]:
    """Positive and negative text of each pair in turn."""
    return [text for pair in pairs for text in (pair.positive, pair.negative)]


def margin_weights(pairs: Sequence[AnswerPair]) -> Float[Tensor, "2n"]:
    """Of `texts_of(pairs)`: the mean margin is the sum of these times each text's log-probability per token."""
    return torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(pairs)) / len(pairs)


def _half_swapped(pairs: Sequence[AnswerPair], generator: torch.Generator) -> tuple[AnswerPair, ...]:
    swap = set(torch.randperm(len(pairs), generator=generator)[: len(pairs) // 2].tolist())
    return tuple(pair.swapped if k in swap else pair for k, pair in enumerate(pairs))
