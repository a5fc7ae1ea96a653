"""The table of docs/benchmarks/interop.md: what was compared with which tool, and what came out. `make test-interop`
runs the tools and writes it."""

from importlib.metadata import version
from pathlib import Path

DOC = Path(__file__).parents[2] / "docs" / "benchmarks" / "interop.md"
BEGIN, END = "<!-- table: written by `make test-interop` -->\n", "<!-- end of the table -->\n"
HEAD = ("format", "tool", "direction", "compared", "result")
_ROWS: dict[tuple[str, ...], str] = {}


def compared(format_: str, tool: str, direction: str, what: str, result: str) -> None:
    """Note one row. direction: "ours there" (our file in the tool) or "theirs here"."""
    _ROWS[(format_, tool, direction, what)] = result


def tool(package: str) -> str:
    """A package with the version that is installed."""
    return f"{package} {version(package)}"


def write() -> None:
    """Put the rows that were noted into the page; those of tools that were not at hand stay as they are."""
    before, _, rest = DOC.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    rows = {tuple(line.strip("| ").split(" | "))[:-1]: line for line in old.splitlines()[3:] if line}
    rows |= {key: f"| {' | '.join((*key, result))} |" for key, result in _ROWS.items()}
    head = (f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|")
    lines = "\n".join([*head, *(line for _, line in sorted(rows.items()))])
    DOC.write_text(f"{before}{BEGIN}\n{lines}\n\n{END}{after}", encoding="utf-8")
