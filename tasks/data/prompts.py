"""Prompts: the recipe's examples as tokens. A text of a run is a pair (example, tokens): what it is, and its ids."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.steering.model.tokens import PromptFormat, Tokens, template_digest, tokenize, tokenizer_digest
from trimtab.tasks.data.examples import Example, each_example
from trimtab.tasks.data.remembered import Remembered
from trimtab.tasks.data.sections import Data, Sentences

Text = tuple[Example, Tokens]


class Form(Protocol):
    """How prompts are put to the model: through the chat template or as plain text, and after which system message."""

    @property
    def chat(self) -> bool: ...

    @property
    def system(self) -> str | None: ...


_TEXTS = Remembered[Text](lambda text: len(text[1]))


def form_of(data: Form, system: str | None = None) -> PromptFormat:
    """How prompts become text; `system` goes before the system message of the data."""
    messages = [message for message in (system, data.system) if message]
    return PromptFormat(chat=data.chat, system="\n\n".join(messages) or None)


def texts_of(data: Data, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """Every text of a recipe's data: positive before negative within a pair, in the order of the files."""
    return list(each_text(data, tokenizer))


def each_text(data: Data, tokenizer: PreTrainedTokenizerBase) -> Iterator[Text]:
    """The texts of `texts_of`, one in memory at a time. Raises DataError."""
    data.check_unchanged()
    return tokenised(data, tokenizer, lambda: each_example(data), form_of(data))


def tokenised(
    data: Data | Sentences,
    tokenizer: PreTrainedTokenizerBase,
    examples: Callable[[], Iterable[Example]],
    form: PromptFormat,
) -> Iterator[Text]:
    """The examples of this data with their tokens, or what this tokenizer made of the same data before."""
    key = (data.model_dump_json(), tokenizer_digest(tokenizer), template_digest(tokenizer))
    return _TEXTS.each(key, lambda: ((example, tokens_of(tokenizer, example, form)) for example in examples()))


def tokens_of(tokenizer: PreTrainedTokenizerBase, example: Example, form: PromptFormat) -> Tokens:
    """One example's tokens."""
    return tokenize(tokenizer, example.prompt, example.completion, form)


def digest_of(texts: Iterable[Text]) -> str:
    """sha256 over token ids, prompt lengths, labels, pairs and splits."""
    digest = hashlib.sha256()
    for example, tokens in texts:
        feed(digest, tokens, example.label, example.pair, example.split)
    return digest.hexdigest()


def feed(digest: "hashlib._Hash", tokens: Tokens, label: int, pair: int, split: str) -> None:
    """One more text of `digest_of`."""
    digest.update(f"{tokens.prompt_length},{label},{pair},{split};".encode())
    digest.update(np.ascontiguousarray(tokens.ids, dtype="<i8").tobytes())


def couples(texts: Iterable[Text], split: str) -> list[tuple[Text, Text]]:
    """Positive and negative texts of a split, by pair. Those of class files stand together where they answer one
    prompt; the rest are coupled in their order, and are no pairs."""
    in_split = [text for text in texts if text[0].split == split]
    positive, negative = ([text for text in in_split if text[0].label == label] for label in (1, -1))
    if in_split and in_split[0][0].pair >= 0:
        return list(zip(positive, negative, strict=True))
    return _coupled(positive, negative)


def _coupled(positive: Sequence[Text], negative: Sequence[Text]) -> list[tuple[Text, Text]]:
    answers: dict[bytes, list[Text]] = {}
    for text in negative:
        answers.setdefault(_prompt(text), []).append(text)
    to_same = [answers.get(_prompt(text)) for text in positive]
    partners = [same.pop(0) if same else None for same in to_same]
    rest = chain.from_iterable(answers.values())
    both = [
        (text, next(rest, None) if partner is None else partner)
        for text, partner in zip(positive, partners, strict=True)
    ]
    return [(first, second) for first, second in both if second is not None]


def _prompt(text: Text) -> bytes:
    return text[1].prompt.ids.tobytes()
