"""Whether the texts of the data can answer what a recipe asks of them."""

from collections import Counter
from dataclasses import dataclass, field

from trimtab.tasks.data.examples import Example, each_example
from trimtab.tasks.data.sections import SPLITS, Data
from trimtab.tasks.errors import DataError

MIN_PER_SPLIT = 2
ONLY_PROMPT = ("prompt", "last")  # spans


def check_data(data: Data, span: str, judged: bool) -> None:
    """Raises DataError when the rows cannot answer what the recipe asks of them: its span, and, where they are judged
    too, a judgement, which compares completions. Reads the files through once."""
    tally, name = Tally(), _shown(data)
    for example in each_example(data):
        tally.add(example)
    _check_splits(tally, name)
    _check_span(tally, span, name)
    if not data.chat and tally.chat:
        raise DataError(
            f"{name}: holds chat messages, but the recipe says `chat: false`; use `chat: true` or plain text"
        )
    if judged and tally.whole:
        raise DataError(
            f"{name}: holds texts without a prompt and a completion, so nothing can be judged on them; "
            f"`trimtab collect` takes them, `trimtab run` needs a prompt and its completions in every row"
        )


@dataclass
class Tally:
    """Counts over all texts. counts: by label and split. whole: texts without a completion. paired: texts of pairs with
    one. chat: prompts that are chat messages."""

    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    whole: int = 0
    paired: int = 0
    chat: int = 0

    def add(self, example: Example) -> None:
        """Count one text."""
        self.counts[example.label, example.split] += 1
        self.whole += example.completion is None
        self.paired += example.pair >= 0 and example.completion is not None
        self.chat += not isinstance(example.prompt, str)

    @property
    def total(self) -> int:
        return self.counts.total()


def _check_splits(tally: Tally, name: str) -> None:
    for label in (1, -1):
        for split in SPLITS:
            n = tally.counts[label, split]
            if n < MIN_PER_SPLIT:
                side = "positive" if label > 0 else "negative"
                raise DataError(
                    f"{name}: the {split} split gets {n} {side} rows of {tally.total // 2}, it needs "
                    f"{MIN_PER_SPLIT}; add rows, or change data.split"
                )


def _check_span(tally: Tally, span: str, name: str) -> None:
    if span == "generated" and tally.whole:
        raise DataError(
            f"{name}: {tally.whole} of {tally.total} texts have no completion, so capture.span 'generated' selects "
            f"nothing of them; use 'all' or 'last'"
        )
    if span in ONLY_PROMPT and tally.paired:
        raise DataError(
            f"{name}: capture.span '{span}' reads only the prompt, which both completions of a pair share: the "
            f"contrast would be zero; use 'generated' or 'answer'"
        )


def _shown(data: Data) -> str:
    file = data.pairs or data.positive
    return file.path if file else "data"
