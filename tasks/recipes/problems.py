"""Pydantic's errors as one line each: where, which key, what is wrong, and the nearest right word."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from trimtab.tasks.errors import did_you_mean
from trimtab.tasks.recipes.yaml import Document, Key

Problem = tuple[tuple[str | int, ...], str]  # the key, and what is wrong with its value
CROSS = "sections_disagree"  # the error type that carries several problems of one recipe


def problem_lines(error: ValidationError, model: type[BaseModel], document: Document) -> list[str]:
    """Lines in the order of the file. model: the kind that the recipe was read as; errors begin with its name."""
    problems = [problem for entry in error.errors(include_url=False) for problem in _problems(entry, model)]
    lines = {f"{document.where(key)}: {'.'.join(map(str, key)) or 'recipe'}: {text}": key for key, text in problems}
    return sorted(lines, key=lambda line: document.lines.get(lines[line], 0))


def _problems(entry: Any, model: type[BaseModel]) -> Iterator[tuple[Key, str]]:
    key: Key = tuple(entry["loc"][1:])
    if entry["type"] == CROSS:
        yield from ((tuple(key), text) for key, text in entry["ctx"]["problems"])
    elif entry["type"] == "extra_forbidden":
        yield key, f"unknown key{_nearest(key, model)}"
    elif entry["type"] == "missing":
        yield key, "missing"
    elif entry["type"] == "value_error":
        yield key, str(entry["ctx"]["error"])
    else:
        yield key, _lowered(entry["msg"]) + _got(entry["input"])


def _nearest(key: Key, model: type[BaseModel]) -> str:
    """Among the keys of the same section; else the section where the key belongs."""
    word, section = str(key[-1]), _section(model, key[:-1])
    homes = [path for path in _paths(model) if path[-1] == word]
    if homes:
        return f"; it belongs in {' or '.join('.'.join(path) for path in homes[:2])}"
    return did_you_mean(word, section.model_fields)


def _section(model: type[BaseModel], key: Sequence[str | int]) -> type[BaseModel]:
    for part in key:
        inner = _inner(model.model_fields[str(part)].annotation) if str(part) in model.model_fields else None
        model = inner or model
    return model


def _paths(model: type[BaseModel], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*before, name)
        inner = _inner(field.annotation)
        if inner is not None and inner.__name__ != "DataFile":
            yield from _paths(inner, (*before, name))


def _inner(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        deeper = next(iter(get_args(candidate)), None)
        if isinstance(deeper, type) and issubclass(deeper, BaseModel):
            return deeper
    return None


def _lowered(text: str) -> str:
    text = text.replace("Input should be", "must be").replace("or an instance of ", "")
    return text[0].lower() + text[1:]


def _got(value: object) -> str:
    if isinstance(value, str) and _is_number(value):
        cure = "YAML wants a point and a sign, as in 1.0e-3" if "e" in value.lower() else "remove the quotes"
        return f", got the text '{value}' ({cure})"
    if value is None:
        return ", got nothing"
    return f", got {value!r}" if isinstance(value, str | int | float | bool) and len(repr(value)) < 80 else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
