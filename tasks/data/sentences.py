"""Sentences: the texts of a features recipe, each with its concept and split, in the order of the files."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from trimtab.steering.model.tokens import PromptFormat, tokenize
from trimtab.tasks.data.examples import Example
from trimtab.tasks.data.jsonl import SPLITS, check_keys, file_digest, read_jsonl, split_of, text_of
from trimtab.tasks.data.prompts import Text
from trimtab.tasks.data.sections import DataFile, Sentences
from trimtab.tasks.errors import DataError

PLAIN = PromptFormat(chat=False)


@dataclass(frozen=True)
class Sentence:
    """text, its concept ("" for none), and fit, select or report."""

    text: str
    concept: str
    split: str


def sentences_of(data: Sentences) -> tuple[Sentence, ...]:
    """Raises DataError: a line that is not `{text}`, a sentence given twice, a concept missing from a split, a file
    that changed since the recipe was read."""
    found = tuple(_each(data))
    _check_repeats(found)
    counts = Counter((s.concept, s.split) for s in found)
    for concept in data.concepts:
        short = [split for split in SPLITS if not counts[concept, split]]
        if short:
            raise DataError(f"concept '{concept}': no sentence in the {short[0]} split; add sentences to its file")
    return found


def texts_of_sentences(data: Sentences, tokenizer: PreTrainedTokenizerBase) -> Iterator[Text]:
    """As marked tokens, plain text without a template."""
    for sentence in sentences_of(data):
        tokens = tokenize(tokenizer, sentence.text, form=PLAIN)
        yield Text(tokens, Example(sentence.text, None, 0, -1, sentence.split))


def _each(data: Sentences) -> Iterator[Sentence]:
    files: list[tuple[str, DataFile]] = [*data.concepts.items(), *(("", file) for file in data.texts)]
    for concept, file in files:
        path = Path(file.path)
        if not path.is_file() or file_digest(path) != file.sha256:
            raise DataError(f"{path}: changed since the recipe was read; run again")
        for number, given in read_jsonl(path):
            where = f"{path}:{number}"
            check_keys(given, ("text",), (), where)
            text = text_of(given, "text", where)
            yield Sentence(text, concept, split_of(text, data.split.shares, data.split.seed))


def _check_repeats(found: tuple[Sentence, ...]) -> None:
    text, times = Counter(s.text for s in found).most_common(1)[0] if found else ("", 0)
    if times != 1:
        raise DataError(
            f"'{text[:60]}' is given {times} times; a sentence in two concepts tells them apart from nothing"
        )
