"""PaddedTexts: texts of one forward pass whose autograd graph may be kept, and the log-probabilities that write their
completions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.batching import pad_right
from trimtab.steering.model.span import Positions
from trimtab.steering.model.tokens import Tokens


@dataclass(frozen=True, eq=False)
class PaddedTexts:
    """texts: of the pass. ids: `[b s]`, padded behind, where causal attention needs no mask. positions: of the tokens
    in their texts."""

    texts: Sequence[Tokens]
    ids: Int[Tensor, "b s"]
    positions: Positions

    @classmethod
    def of(cls, texts: Sequence[Tokens], device: torch.device) -> "PaddedTexts":
        ids = pad_right(texts, device)
        place = torch.arange(ids.shape[1]).expand(ids.shape)
        lengths = torch.tensor([len(text) for text in texts])
        prompts = torch.tensor([text.prompt_length for text in texts])
        return cls(texts, ids, Positions(torch.where(place < lengths[:, None], place, -1), prompts))

    @property
    def prompt_lengths(self) -> list[int]:
        """Tokens of each text's prompt, as `plan.on` takes them."""
        return [text.prompt_length for text in self.texts]

    def logprobs(self, model: PreTrainedModel) -> list[Float[Tensor, "n v"]]:
        """Per text, log-probabilities at the positions that write its completion, from one forward pass."""
        first = min(self.prompt_lengths) - 1
        logits = model(input_ids=self.ids, use_cache=False, logits_to_keep=self.ids.shape[1] - first).logits
        ends = [(text.prompt_length - 1 - first, len(text) - 1 - first) for text in self.texts]
        return [logits[k, start:end].float().log_softmax(-1) for k, (start, end) in enumerate(ends)]


def completion_logprobs(rows: Sequence[Float[Tensor, "n v"]], texts: Sequence[Tokens]) -> list[Float[Tensor, "n"]]:
    """Per text, the log-probability of each token of its completion, nats."""
    ids = [
        torch.from_numpy(text.ids[text.prompt_length :]).to(row.device) for row, text in zip(rows, texts, strict=True)
    ]
    return [row.gather(-1, y[:, None])[:, 0] for row, y in zip(rows, ids, strict=True)]


def check_completions(texts: Sequence[Tokens]) -> None:
    """Raises SteeringError when there is no text, or one without a completion."""
    empty = sum(len(text) == text.prompt_length for text in texts)
    if empty or not texts:
        raise SteeringError(f"{empty} of {len(texts)} texts have no completion; nothing is scored in them")
