"""Prompts: the recipe's rows as marked tokens, each with its class, pair and split."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.steering.model.tokens import PromptFormat, Tokens, tokenize
from trimtab.tasks.data_files import ClassRow, PairRow, read_class, read_pairs, split_of
from trimtab.tasks.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Text:
    """One text to run. label: +1 or -1. pair: texts with one number belong together (-1: none). split: fit, select or
    report. source: the prompt as the data file has it, for people to read."""

    tokens: Tokens
    label: int
    pair: int
    split: str
    source: str


def form_of(recipe: Recipe) -> PromptFormat:
    """How the recipe's prompts become text."""
    return PromptFormat(chat=recipe.data.chat, system=recipe.data.system)


def texts_of(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, form: PromptFormat | None = None
) -> list[Text]:
    """Every text of the recipe's data: positive before negative within a pair, in the order of the file.

    form: instead of the recipe's own (for example with a system prompt that asks for the behaviour).
    """
    form = form or form_of(recipe)
    data = recipe.data
    if data.pairs is not None:
        rows = read_pairs(Path(data.pairs.path)).rows
        return [text for k, row in enumerate(rows) for text in _pair(recipe, tokenizer, form, (k, row))]
    files = ((1, data.positive), (-1, data.negative))
    return [
        _single(recipe, tokenizer, form, row, label)
        for label, file in files
        if file is not None
        for row in read_class(Path(file.path)).rows
    ]


def digest_of(texts: Sequence[Text]) -> str:
    """sha256 over token ids, prompt lengths, labels, pairs and splits."""
    digest = hashlib.sha256()
    for text in texts:
        head = f"{text.tokens.prompt_length},{text.label},{text.pair},{text.split};"
        digest.update(head.encode() + np.ascontiguousarray(text.tokens.ids, dtype="<i8").tobytes())
    return digest.hexdigest()


def couples(texts: Sequence[Text], split: str) -> list[tuple[Text, Text]]:
    """Positive and negative texts of a split, by pair; texts of class files are coupled in order."""
    mine = [text for text in texts if text.split == split]
    positive = sorted((t for t in mine if t.label > 0), key=lambda t: t.pair)
    negative = sorted((t for t in mine if t.label < 0), key=lambda t: t.pair)
    return list(zip(positive, negative, strict=False))


def _split(recipe: Recipe, identity: str) -> str:
    return split_of(identity, recipe.data.split.shares, recipe.data.split.seed)


def _pair(recipe: Recipe, tokenizer, form: PromptFormat, numbered: tuple[int, PairRow]) -> Iterator[Text]:
    number, row = numbered
    split = _split(recipe, row.identity)
    for label, completion in ((1, row.positive), (-1, row.negative)):
        tokens = _tokens(tokenizer, row.prompt, completion, form)
        yield Text(tokens, label, number, split, _shown(row.prompt if row.prompt is not None else completion))


def _single(recipe: Recipe, tokenizer, form: PromptFormat, row: ClassRow, label: int) -> Text:
    tokens = tokenize(tokenizer, row.prompt, row.completion, form)
    return Text(tokens, label, -1, _split(recipe, row.identity), _shown(row.prompt))


def _tokens(tokenizer, prompt, completion: str, form: PromptFormat) -> Tokens:
    """A whole text without a prompt is what a user says in a chat; in plain mode its first token is the prompt."""
    if prompt is not None:
        return tokenize(tokenizer, prompt, completion, form)
    whole = tokenize(tokenizer, completion, form=form)
    return whole if form.chat else whole.prompted_by(1)


def _shown(prompt) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
