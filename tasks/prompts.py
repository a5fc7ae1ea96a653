"""Prompts: the recipe's examples as marked tokens, each with its class, pair and split."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.steering.model.tokens import PromptFormat, Tokens, tokenize
from trimtab.tasks.data_files import Prompt
from trimtab.tasks.examples import Example, each_example
from trimtab.tasks.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Text:
    """One text to run: an example (label, pair, split) and its tokens."""

    tokens: Tokens
    example: Example

    @property
    def source(self) -> str:
        """The prompt as the data file has it, for people to read."""
        return shown(self.example.prompt)


def form_of(recipe: Recipe, system: str | None = None) -> PromptFormat:
    """How the recipe's prompts become text; `system` goes before what the recipe itself says to the model."""
    said = [part for part in (system, recipe.data.system) if part]
    return PromptFormat(chat=recipe.data.chat, system="\n\n".join(said) or None)


def texts_of(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """Every text of the recipe's data: positive before negative within a pair, in the order of the files."""
    return list(each_text(recipe, tokenizer))


def each_text(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Iterator[Text]:
    """The texts of `texts_of`, one in memory at a time."""
    form = form_of(recipe)
    for example in each_example(recipe.data):
        yield Text(tokens_of(tokenizer, example, form), example)


def tokens_of(tokenizer: PreTrainedTokenizerBase, example: Example, form: PromptFormat) -> Tokens:
    """One example's tokens."""
    return tokenize(tokenizer, example.prompt, example.completion, form)


def digest_of(texts: Iterable[Text]) -> str:
    """sha256 over token ids, prompt lengths, labels, pairs and splits."""
    digest = hashlib.sha256()
    for text in texts:
        feed(digest, text.tokens, text.example.label, text.example.pair, text.example.split)
    return digest.hexdigest()


def feed(digest: "hashlib._Hash", tokens: Tokens, label: int, pair: int, split: str) -> None:
    """One more text of `digest_of`."""
    digest.update(f"{tokens.prompt_length},{label},{pair},{split};".encode())
    digest.update(np.ascontiguousarray(tokens.ids, dtype="<i8").tobytes())


def couples(texts: Sequence[Text], split: str) -> list[tuple[Text, Text]]:
    """Positive and negative texts of a split, by pair; those of class files are coupled in their order."""
    mine = [text for text in texts if text.example.split == split]
    positive = [text for text in mine if text.example.label > 0]
    negative = [text for text in mine if text.example.label < 0]
    return list(zip(positive, negative, strict=False))


def shown(prompt: Prompt) -> str:
    """A prompt for people: the last message of a chat."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
