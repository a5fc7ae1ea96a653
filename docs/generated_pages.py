"""Pages of the documentation site that are read from the code when the site is built, so that they cannot go stale.

MkDocs calls `on_config` and `on_files` (see `hooks` in mkdocs.yml). Made here: the recipe reference from the JSON
schema, the command line from the commands' own help, a page for each method on the shelves, a page for each room of the
Python packages, and the project's pages (ARCHITECTURE.md and its like), whose links are made relative to the site.
"""

import ast
import importlib
import inspect
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from trimtab.flows.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
SHELVES = {"fitters": "FITTERS", "localisers": "LOCALISERS", "gates": "GATES", "moves": "MOVES"}
SHELF_WORDS = {
    "fitters": "A fitter makes a plan from rows of activations.",
    "localisers": "A localiser ranks heads and MLPs by what they do for a task.",
    "gates": "A gate decides on which prompts or tokens a move acts.",
    "moves": "A move is what is done to an activation vector.",
}
PROJECT = {
    "project/architecture.md": "ARCHITECTURE.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changes.md": "CHANGELOG.md",
    "benchmarks/index.md": "BENCHMARKS.md",
}
DOORS = (
    "What a script needs is exported by three packages: `trimtab.steering` (models, plans, fitting, prices; no disk), "
    "`trimtab.store` (activations and the catalog; no torch) and, for recipes and references, `trimtab.tasks`. Start "
    "with [two minutes in Python](../../start/python.md). Below is every module, room by room; names that begin with "
    "an underscore may change at any time."
)
WIDE = "---\nhide: [toc]\n---\n\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace the entries of the navigation that end in a slash by the pages that belong there."""
    config.nav = [_entry(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, content in generated().items():
        files.append(File.generated(config, path, content=content))
    return files


@cache
def generated() -> dict[str, str]:
    """Path in the site -> Markdown of every generated page."""
    pages = {"reference/recipe.md": recipe_page(), "reference/command-line.md": command_page()}
    pages |= {path: project_page(source, path) for path, source in PROJECT.items()}
    pages |= dict(method_pages())
    return pages | dict(python_pages())


def _entry(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _target(target) for title, target in entry.items()}
    return entry


def _target(target: Any) -> Any:
    if isinstance(target, list):
        return [_entry(entry) for entry in target]
    return _folder(target) if target.endswith("/") else target


def _folder(folder: str) -> list[Any]:
    """index.md of a folder, its pages, and its sub-folders as sections."""
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / folder).glob("*.md")]
    paths = sorted({*written, *(path for path in generated() if path.startswith(folder))})
    here = [path for path in paths if "/" not in path.removeprefix(folder)]
    below = sorted({path.removeprefix(folder).partition("/")[0] for path in paths if path not in here})
    pages = sorted(here, key=lambda path: (not path.endswith("/index.md"), path))
    return [*pages, *({name.capitalize(): _folder(f"{folder}{name}/")} for name in below)]


# --- project pages


def project_page(source: str, path: str) -> str:
    """A page of the repository's root; links to docs/ become relative, links to other files become code."""
    text = (ROOT / source).read_text()
    up = "../" * path.count("/")
    text = re.sub(r"\]\(docs/([^)]*)\)", rf"]({up}\1)", text)
    for page, name in PROJECT.items():
        text = text.replace(f"]({name})", f"]({up}{page})")
    return re.sub(r"\[([^\]]*)\]\((?!http|#|\.\./)[^)]*\)", r"\1", text)


# --- recipes


def recipe_page() -> str:
    """Every key of every kind of recipe, from the schema that `trimtab schema` prints."""
    schema = json.loads(_printed("schema"))
    sections = schema.get("$defs", {})
    kinds = [name for name in _alternatives(schema)] or [None]
    parts = [
        "# Recipes",
        "A recipe is a YAML file that says what to run. This page is made from the schema that checks it; "
        "`trimtab schema` prints the schema for editors, and `--set section.key=value` overrides a key on the "
        "command line.",
    ]
    if kinds == [None]:
        parts += _section("A recipe", schema, sections)
        rest = sections
    else:
        for kind in kinds:
            parts += _section(_kind_title(sections[kind]), sections[kind], sections, anchor=kind)
        rest = {name: section for name, section in sections.items() if name not in kinds}
    parts.append("## The sections")
    for name, section in rest.items():
        parts += _section(name, section, sections, level=3)
    return WIDE + "\n\n".join(parts) + "\n"


def _alternatives(schema: Mapping[str, Any]) -> Iterator[str]:
    for branch in schema.get("oneOf", schema.get("anyOf", [])):
        if "$ref" in branch:
            yield branch["$ref"].rpartition("/")[2]


def _kind_title(section: Mapping[str, Any]) -> str:
    kind = section.get("properties", {}).get("kind", {})
    return f"kind: {kind['const']}" if "const" in kind else section.get("title", "A recipe")


def _section(
    title: str, section: Mapping[str, Any], sections: Mapping[str, Any], level: int = 2, anchor: str | None = None
) -> list[str]:
    """A heading, the section's own sentence and the table of its keys."""
    heading = f"{'#' * level} {title} {{ #{(anchor or title).lower().replace(' ', '-')} }}"
    sentence = " ".join(str(section.get("description", "")).split())
    required = section.get("required", [])
    rows = [
        f"| `{key}` | {_type(value, sections)} | {_default(key, value, required)} | {_sentence(value)} |"
        for key, value in section.get("properties", {}).items()
    ]
    table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]) if rows else ""
    return [part for part in (heading, sentence, table) if part]


def _sentence(value: Mapping[str, Any]) -> str:
    return " ".join(str(value.get("description", "")).split()).replace("|", "\\|")


def _default(key: str, value: Mapping[str, Any], required: list[str]) -> str:
    if key in required or "default" not in value:
        return "required" if key in required else ""
    default = value["default"]
    if isinstance(default, dict) and default:
        return "see there"
    return f"`{json.dumps(default, ensure_ascii=False)}`".replace("|", "\\|")


def _type(value: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """The type of a key in words, with its bounds; sections are links."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name in sections else name
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    branches = value.get("anyOf", value.get("oneOf"))
    if branches:
        return " or ".join(dict.fromkeys(_type(branch, sections) for branch in branches))
    return _simple(value, sections)


def _simple(value: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    word = str(value.get("type", "any"))
    if word == "array":
        return f"list of {_type(value['items'], sections)}" if "items" in value else "list"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[name]}" for name, sign in bounds.items() if name in value]
    return " ".join([{"object": "mapping", "null": "null"}.get(word, word), ", ".join(limits)]).strip()


# --- command line


def command_page() -> str:
    """What `trimtab COMMAND --help` says, command by command."""
    parts = ["# Command line", "What `trimtab COMMAND --help` says.", _fence(_help())]
    for name in COMMANDS:
        parts += [f"## {name}", _fence(_help(name))]
    return WIDE + "\n\n".join(parts) + "\n"


def _help(*command: str) -> str:
    return _printed(*command, "--help")


def _printed(*words: str) -> str:
    """What a command prints in a terminal of 100 columns."""
    text = io.StringIO()
    with redirect_stdout(text), mock.patch.dict(os.environ, COLUMNS="100", NO_COLOR="1", TERM="dumb"):
        main(words)
    return text.getvalue()


def _fence(text: str) -> str:
    return "```text\n" + "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n```"


# --- methods


def method_pages() -> Iterator[tuple[str, str]]:
    """A page for each method of each shelf, and one that lists them all."""
    listing = ["# Methods", "Every method is one file. Its page here is the docstring of that file's class."]
    for folder, name in SHELVES.items():
        shelf = getattr(importlib.import_module(f"trimtab.steering.{folder}"), name)
        methods = {method: shelf[method] for method in shelf}
        listing += [f"## {folder.capitalize()}", SHELF_WORDS[folder], _listing(folder, methods)]
        for method, cls in methods.items():
            yield f"reference/methods/{folder}/{method}.md", method_page(folder, name, method, cls)
    yield "reference/methods/index.md", "\n\n".join(listing) + "\n"


def _listing(folder: str, methods: Mapping[str, type]) -> str:
    rows = [f"| [`{method}`]({folder}/{method}.md) | {_meaning(cls)} |" for method, cls in methods.items()]
    return "\n".join(["| method | meaning |", "|---|---|", *rows])


def _meaning(cls: type) -> str:
    """The first sentence of the method's file."""
    return (inspect.getdoc(inspect.getmodule(cls)) or "").partition("\n")[0].strip().replace("|", "\\|")


def method_page(folder: str, shelf: str, method: str, cls: type) -> str:
    """Meaning, docstring, source, fields with their defaults."""
    module = f"trimtab.steering.{folder}.{method}"
    parts = [f"# {method}", _meaning(cls), inspect.cleandoc(cls.__doc__ or ""), _source(cls), _fields(cls)]
    parts.append(f'In Python: `from {module} import {cls.__name__}`, or `{shelf}["{method}"]`.')
    return "\n\n".join(part for part in parts if part) + "\n"


def _source(cls: type) -> str:
    source = getattr(cls, "source", None)
    return f"**Source.** {source}" if source else ""


def _fields(cls: type) -> str:
    """The hyper-parameters with type, default and, where the class gives one, a sentence each."""
    own = [field for field in fields(cls) if field.init] if is_dataclass(cls) else []
    if not own:
        return ""
    sentences = _field_docs(cls)
    cells = [[f"`{field.name}`", f"`{_annotation(field.type)}`", _value(field)] for field in own]
    if not sentences:
        return "## Fields\n\n" + _table(["field", "type", "default"], cells)
    more = [[*row, sentences.get(field.name, "")] for row, field in zip(cells, own, strict=True)]
    return "## Fields\n\n" + _table(["field", "type", "default", "meaning"], more)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None) or str(annotation)
    text = str(annotation) if "[" in str(annotation) else text
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text).replace("|", "\\|")


def _value(field: Any) -> str:
    if field.default is not MISSING:
        return f"`{field.default!r}`".replace("|", "\\|")
    return "see there" if field.default_factory is not MISSING else "required"


def _field_docs(cls: type) -> dict[str, str]:
    """Field -> the string that stands below it in the class or in one of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # a built-in class
            continue
        docs |= _docs_below_fields(ast.parse(source).body[0])
    return docs


def _docs_below_fields(node: ast.AST) -> dict[str, str]:
    body = getattr(node, "body", [])
    return {
        first.target.id: " ".join(second.value.value.split()).replace("|", "\\|")
        for first, second in zip(body, body[1:], strict=False)
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr)
        and isinstance(second.value, ast.Constant)
        and isinstance(second.value.value, str)
    }


# --- Python


def python_pages() -> Iterator[tuple[str, str]]:
    """A page for each room of `steering/` and `store/`, and the few doors of `tasks/`."""
    listing = ["# Python", DOORS]
    for package in ("steering", "store"):
        listing.append(f"## trimtab.{package}")
        for room in _rooms(ROOT / package):
            name = ".".join(room.relative_to(ROOT).parts)
            path = f"reference/python/{name.replace('.', '-')}.md"
            listing.append(f"* [`trimtab.{name}`]({Path(path).name}): {_first_line(room / '__init__.py')}")
            yield path, _room_page(room, name)
    yield "reference/python/index.md", "\n\n".join(listing[:2]) + "\n\n" + "\n".join(listing[2:]) + "\n"


def _rooms(package: Path) -> list[Path]:
    return [package, *sorted(path.parent for path in package.glob("*/__init__.py"))]


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0]


def _room_page(room: Path, name: str) -> str:
    """The room's sentence, then every public module in it."""
    modules = sorted(path.stem for path in room.glob("*.py") if not path.name.startswith("_"))
    documented = [f"::: trimtab.{name}.{module}" for module in modules]
    return "\n\n".join([f"# trimtab.{name}", _first_line(room / "__init__.py"), *documented]) + "\n"
