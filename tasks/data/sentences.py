"""Sentences: the texts of a features recipe, each with its concept and split, in the order of the files."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from trimtab.steering.model.tokens import PromptFormat
from trimtab.tasks.data.examples import Example
from trimtab.tasks.data.prompts import Text, tokenised
from trimtab.tasks.data.remembered import Remembered
from trimtab.tasks.data.rows import check_keys, read_jsonl, text_of
from trimtab.tasks.data.sections import SPLITS, DataFile, Sentences
from trimtab.tasks.errors import DataError

PLAIN = PromptFormat(chat=False)


_SENTENCES = Remembered[Example](lambda sentence: sentence.size)


def sentences_of(data: Sentences) -> tuple[Example, ...]:
    """Every sentence as an example without a completion.

    Raises DataError: a line that is not `{text}`, a sentence given twice, a concept missing from a split, a file that
    changed since the recipe was read.
    """
    for _, file in _files(data):
        file.unchanged()
    sentences = tuple(_SENTENCES.each(data.model_dump_json(), lambda: _read(data)))
    _check_repeats(sentences)
    counts = Counter((sentence.concept, sentence.split) for sentence in sentences)
    for concept in data.concepts:
        short = [split for split in SPLITS if not counts[concept, split]]
        if short:
            raise DataError(f"concept '{concept}': no sentence in the {short[0]} split; add sentences to its file")
    return sentences


def texts_of_sentences(data: Sentences, tokenizer: PreTrainedTokenizerBase) -> Iterator[Text]:
    """As marked tokens, plain text without a template."""
    sentences = sentences_of(data)
    return tokenised(data, tokenizer, lambda: sentences, PLAIN)


def _files(data: Sentences) -> list[tuple[str, DataFile]]:
    """Every file with its concept."""
    return [*data.concepts.items(), *(("", file) for file in data.texts)]


def _read(data: Sentences) -> Iterator[Example]:
    for concept, file in _files(data):
        path = Path(file.path)
        for number, row in read_jsonl(path):
            where = f"{path}:{number}"
            check_keys(row, ("text",), (), where)
            text = text_of(row, "text", where)
            yield Example(text, None, 0, -1, data.split.of(text), concept)


def _check_repeats(sentences: tuple[Example, ...]) -> None:
    text, times = Counter(str(sentence.prompt) for sentence in sentences).most_common(1)[0] if sentences else ("", 0)
    if times != 1:
        raise DataError(
            f"'{text[:60]}' is given {times} times; a sentence may stand once, in one concept: remove the others"
        )
