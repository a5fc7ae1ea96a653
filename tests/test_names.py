"""Names say what they hold. A placeholder (`found`, `kept`) sends the reader to the right-hand side."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDERS = {"found", "asked", "known", "chosen", "made", "kept", "held", "given", "taken", "seen"}
PUBLISHED = {  # keys of stored verdicts and of `--json`: their readers know them by these names
    ("steering/price/result.py", "asked"),
    ("steering/judge/verdict.py", "asked"),
    ("steering/judge/verdict.py", "kept"),
    ("tasks/admin/doctor.py", "found"),
    ("tasks/references.py", "given"),
}
FILES = sorted(
    path for layer in ("front", "flows", "tasks", "store", "steering") for path in (ROOT / layer).rglob("*.py")
)


def placeholders(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything that is bound under a placeholder: variables, parameters, attributes and fields."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                if name.strip("_") in PLACEHOLDERS:
                    yield node.lineno, name


@pytest.mark.parametrize(
    "code", ["found = 1", "def f(asked): ...", "self.seen = 1", "for kept in x: ...", "given: int"]
)
def test_a_placeholder_is_noticed(code):
    assert list(placeholders(ast.parse(code)))


def test_every_name_says_what_it_holds():
    for path in FILES:
        place = path.relative_to(ROOT).as_posix()
        bound = [
            (line, name) for line, name in placeholders(ast.parse(path.read_text())) if (place, name) not in PUBLISHED
        ]
        assert not bound, f"{place}:{bound[0][0]}: '{bound[0][1]}' says nothing of what it holds; use the noun"
