"""The code that documentation pages print, as the tests run it."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language, in the order of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `$ trimtab ...` line, without `trimtab` and without comments."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("$ trimtab ")]
