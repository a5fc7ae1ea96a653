"""Prompts: the recipe's examples as marked tokens, each with its class, pair and split."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.steering.model.tokens import PromptFormat, Tokens, template_digest, tokenize, tokenizer_digest
from trimtab.tasks.data.examples import Example, check_unchanged, each_example
from trimtab.tasks.data.jsonl import Prompt
from trimtab.tasks.data.remembered import Remembered
from trimtab.tasks.data.sections import Data, Sentences


class Form(Protocol):
    """How prompts are put to the model: through the chat template or as plain text, and after which system message."""

    @property
    def chat(self) -> bool: ...

    @property
    def system(self) -> str | None: ...


@dataclass(frozen=True, eq=False)
class Text:
    """One text to run: an example (label, pair, split) and its tokens."""

    tokens: Tokens
    example: Example

    @property
    def source(self) -> str:
        """The prompt as the data file has it, for people to read."""
        return shown(self.example.prompt)


_TEXTS = Remembered[Text](lambda text: len(text.tokens))


def form_of(data: Form, system: str | None = None) -> PromptFormat:
    """How prompts become text; `system` goes before the system message of the data."""
    messages = [message for message in (system, data.system) if message]
    return PromptFormat(chat=data.chat, system="\n\n".join(messages) or None)


def texts_of(data: Data, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """Every text of a recipe's data: positive before negative within a pair, in the order of the files."""
    return list(each_text(data, tokenizer))


def each_text(data: Data, tokenizer: PreTrainedTokenizerBase) -> Iterator[Text]:
    """The texts of `texts_of`, one in memory at a time. Raises DataError."""
    check_unchanged(data)
    form = form_of(data)
    return remembered_texts(
        data, tokenizer, lambda: (Text(tokens_of(tokenizer, example, form), example) for example in each_example(data))
    )


def remembered_texts(
    data: Data | Sentences, tokenizer: PreTrainedTokenizerBase, tokenise: Callable[[], Iterator[Text]]
) -> Iterator[Text]:
    """The texts of `tokenise()`, or those that this tokenizer made of the same data before."""
    key = (data.model_dump_json(), tokenizer_digest(tokenizer), template_digest(tokenizer))
    return _TEXTS.each(key, tokenise)


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
    """Positive and negative texts of a split, by pair. Those of class files stand together where they answer one
    prompt; the rest are coupled in their order, and are no pairs."""
    mine = [text for text in texts if text.example.split == split]
    positive, negative = ([text for text in mine if text.example.label * side > 0] for side in (1, -1))
    if mine and mine[0].example.pair >= 0:
        return list(zip(positive, negative, strict=True))
    return _coupled(positive, negative)


def _coupled(positive: Sequence[Text], negative: Sequence[Text]) -> list[tuple[Text, Text]]:
    answers: dict[bytes, list[Text]] = {}
    for text in negative:
        answers.setdefault(text.tokens.prompt.ids.tobytes(), []).append(text)
    to_same = [answers.get(text.tokens.prompt.ids.tobytes()) for text in positive]
    partners = [same.pop(0) if same else None for same in to_same]
    rest = chain.from_iterable(answers.values())
    both = [
        (text, next(rest, None) if partner is None else partner)
        for text, partner in zip(positive, partners, strict=True)
    ]
    return [(first, second) for first, second in both if second is not None]


def shown(prompt: Prompt) -> str:
    """A prompt for people: the last message of a chat."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
