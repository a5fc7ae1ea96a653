"""Prompts of a condition recipe, each marked as wanted or unwanted."""

from pathlib import Path

from trimtab.tasks.data.examples import Example
from trimtab.tasks.data.rows import check_keys, read_jsonl, text_of
from trimtab.tasks.data.sections import MarkedPrompts
from trimtab.tasks.errors import DataError

TWINS = 10  # neighbouring lines go to one split: prompts are often written in pairs that differ in what matters


def marked_prompts(data: MarkedPrompts) -> list[Example]:
    """Prompts in the order of the file, label 1 where the plan is wanted and -1 where it is not.

    Raises DataError: one line, `file:line:` first.
    """
    path = Path(data.prompts.path)
    lines: dict[str, int] = {}
    examples = []
    for number, row in read_jsonl(path, path.name):
        where = f"{path.name}:{number}"
        check_keys(row, ("prompt", "wanted"), (), where)
        prompt = text_of(row, "prompt", where)
        if not isinstance(row["wanted"], bool):
            raise DataError(f"{where}: wanted is {row['wanted']!r}; write true or false")
        if prompt in lines:
            raise DataError(f"{where}: the same prompt as in line {lines[prompt]}; remove one")
        lines[prompt] = number
        split = data.split.of(str(number // TWINS))
        examples.append(Example(prompt, None, 1 if row["wanted"] else -1, split=split))
    return examples
