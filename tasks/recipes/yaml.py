"""YAML to plain data, with the line of every key. Refuses what safe YAML still allows but nobody means: duplicate
keys (the last would win in silence), aliases (they can grow without bound), keys that are not text."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from trimtab.tasks.errors import RecipeError

MAX_BYTES = 1 << 20
CONSTRUCTORS = (KeyError, IndexError, TypeError, AttributeError)  # of PyYAML, over `!!bool maybe` or `!!int ''`
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """data: the mapping. name: of the file, for messages. lines: line number (from 1) of every key path. settings:
    the `--set` text of every key path that was overridden."""

    data: dict[str, Any]
    name: str
    lines: dict[Key, int] = field(default_factory=dict)
    settings: dict[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """`file:line` of a key or of the nearest section that encloses it; `--set ...` when it came from there."""
        for depth in range(len(key), 0, -1):
            if key[:depth] in self.settings:
                return f"--set {self.settings[key[:depth]]}"
            if key[:depth] in self.lines:
                return f"{self.name}:{self.lines[key[:depth]]}"
        return f"{self.name}:1" if self.lines else self.name

    def json(self) -> str:
        """The data as JSON text; a date is just text. Raises RecipeError for what no JSON can hold."""
        try:
            return json.dumps(self.data, default=str)
        except (ValueError, TypeError, RecursionError, OverflowError):
            raise RecipeError(f"{self.name}: holds a number of thousands of digits, or itself; write it out") from None


def read_document(path: Path) -> Document:
    """Raises RecipeError when the file is not one YAML mapping in UTF-8."""
    return parse_document(_text(path), str(path))


@lru_cache(maxsize=8)
def parse_document(text: str, name: str) -> Document:
    """The same from text; `name` stands for the file in messages. One text is parsed once a process."""
    try:
        loader = _Loader(text, name)
        root = loader.get_single_node()
        if root is None:
            raise RecipeError(f"{name}: the file is empty; `trimtab init DIR` writes a recipe to start from")
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError(f"{name}:1: a recipe is a mapping of `key: value`, this is a {_kind(root)}")
        lines = dict(_lines(root, (), name))
        return Document(loader.construct_document(root), name, lines)
    except yaml.MarkedYAMLError as error:
        raise RecipeError(_marked(name, error)) from error
    except (yaml.YAMLError, ValueError, *CONSTRUCTORS) as error:
        raise RecipeError(f"{name}: not YAML: {' '.join(str(error).split())[:200]}") from error
    except RecursionError:
        raise RecipeError(f"{name}: nested too deeply to be a recipe") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases. name: of the file, for messages."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self._file = name

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            line = event.start_mark.line + 1
            raise RecipeError(f"{self._file}:{line}: the alias '*{event.anchor}' is refused; write the value out")
        return super().compose_node(parent, index)


def _text(path: Path) -> str:
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder; give the recipe file in it, for example {path / 'recipe.yaml'}")
    if path.exists() and not path.is_file():
        raise RecipeError(f"{path}: is not a plain file; a recipe must be one, so that it can be read again")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; `trimtab init DIR` writes a recipe to start from") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{path}: more than {MAX_BYTES >> 20} MiB; a recipe is a page, data belongs in JSONL files")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8") from None


def _lines(node: yaml.Node, path: Key, name: str) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*path, number), item.start_mark.line + 1
            yield from _lines(item, (*path, number), name)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            text = _key_text(key, name)
            if text in first:
                here = ".".join(map(str, (*path, text)))
                raise RecipeError(f"{name}:{line}: {here}: given twice, first in line {first[text]}; keep one")
            first[text] = line
            yield (*path, text), line
            yield from _lines(value, (*path, text), name)


def _key_text(key: yaml.Node, name: str) -> str:
    if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
        shown = key.value if isinstance(key, yaml.ScalarNode) else _kind(key)
        raise RecipeError(f"{name}:{key.start_mark.line + 1}: the key '{shown}' is not text")
    return str(key.value)


def _kind(node: yaml.Node) -> str:
    return (
        "list" if isinstance(node, yaml.SequenceNode) else "mapping" if isinstance(node, yaml.MappingNode) else "word"
    )


def _marked(name: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}" if mark else name
    return f"{where}: not YAML: {' '.join(str(error.problem or error.context).split())}"


def override(document: Document, setting: str) -> Document:
    """`budget.kl=0.2` over the document; the value is YAML. Raises RecipeError that begins with `--set`."""
    key, equals, text = setting.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise RecipeError(f"--set {setting}: write key=value, for example budget.kl=0.2")
    try:
        loader = _Loader(text, "--set")
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError, *CONSTRUCTORS):
        raise RecipeError(f"--set {setting}: the value is not YAML") from None
    data = copy.deepcopy(document.data)
    section = data
    for depth, part in enumerate(path[:-1], start=1):
        if path[:depth] == ("model",) and isinstance(section.get(part), str):
            section[part] = {"id": section[part]}
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise RecipeError(f"--set {setting}: {'.'.join(path[:depth])} is a value, it has no keys")
    section[path[-1]] = value
    return replace(document, data=data, settings={**document.settings, path: setting})
