"""Prompts of a condition recipe, each marked as wanted or unwanted, by split."""

from pathlib import Path

from trimtab.tasks.data.jsonl import check_keys, read_jsonl, split_of, text_of
from trimtab.tasks.data.sections import MarkedPrompts
from trimtab.tasks.errors import DataError

TWINS = 10  # neighbouring lines go to one split: prompts are often written in pairs that differ in what matters


def labelled_rows(data: MarkedPrompts) -> dict[str, list[tuple[str, bool]]]:
    """(prompt, wanted) by split, in the order of the file. Raises DataError: one line, `file:line:` first."""
    path = Path(data.prompts.path)
    by_split: dict[str, list[tuple[str, bool]]] = {"fit": [], "select": [], "report": []}
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path, path.name):
        where = f"{path.name}:{number}"
        check_keys(row, ("prompt", "wanted"), (), where)
        prompt = text_of(row, "prompt", where)
        if not isinstance(row["wanted"], bool):
            raise DataError(f"{where}: wanted is {row['wanted']!r}; write true or false")
        if prompt in lines:
            raise DataError(f"{where}: the same prompt as in line {lines[prompt]}; remove one")
        lines[prompt] = number
        split = split_of(str(number // TWINS), data.split.shares, data.split.seed)
        by_split[split].append((prompt, row["wanted"]))
    return by_split
