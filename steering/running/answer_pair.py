"""AnswerPair: a wanted and an unwanted completion. Effects are measured on it, and some methods learn from it."""

from dataclasses import dataclass

from trimtab.steering.model.tokens import Tokens


@dataclass(frozen=True, eq=False)
class AnswerPair:
    """A wanted and an unwanted completion: of one prompt, or of two that have nothing to do with each other."""

    positive: Tokens
    negative: Tokens

    @property
    def prompts(self) -> tuple[bytes, bytes]:
        """What tells the prompts of both sides from others."""
        return self.positive.prompt.ids.tobytes(), self.negative.prompt.ids.tobytes()

    @property
    def paired(self) -> bool:
        """Whether both sides answer one prompt."""
        first, second = self.prompts
        return first == second

    @property
    def swapped(self) -> "AnswerPair":
        """The same with its labels exchanged."""
        return AnswerPair(self.negative, self.positive)

    def shortened(self, tokens: int | None) -> "AnswerPair":
        """Both completions cut to their first `tokens` tokens (None: as they are)."""
        return self if tokens is None else AnswerPair(_first(self.positive, tokens), _first(self.negative, tokens))


def _first(text: Tokens, tokens: int) -> Tokens:
    end = text.prompt_length + tokens
    return Tokens(text.ids[:end], text.prompt_length, text.roles[:end], text.special[:end])
