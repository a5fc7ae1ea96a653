"""What must agree between the sections of a recipe. Each check yields (key, message); the reader adds file and line."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters import FITTERS
from trimtab.steering.model.site import POINTS, WITHOUT_BLOCK
from trimtab.tasks.errors import did_you_mean
from trimtab.tasks.recipes.sections import CaptureSpec, FitSpec

Problem = tuple[tuple[str, ...], str]


def check_sections(capture: CaptureSpec, fit: FitSpec) -> Iterator[Problem]:
    """All disagreements between what is captured and what is fitted."""
    yield from _check_point(capture, fit)
    yield from _check_fitters(fit)


def _check_point(capture: CaptureSpec, fit: FitSpec) -> Iterator[Problem]:
    if fit.point not in POINTS:
        yield ("fit", "point"), f"unknown point '{fit.point}'{did_you_mean(fit.point, POINTS)}"
    elif fit.point not in capture.points:
        asked = ", ".join(capture.points)
        yield ("fit", "point"), f"'{fit.point}' is not captured (capture.points: {asked}); add it there"
    if capture.blocks != "all" and set(capture.points) <= set(WITHOUT_BLOCK):
        yield ("capture", "blocks"), f"{', '.join(capture.points)} has no blocks; remove `blocks`"


def _check_fitters(fit: FitSpec) -> Iterator[Problem]:
    if fit.fitter not in FITTERS:
        yield ("fit", "fitter"), f"unknown fitter '{fit.fitter}'{did_you_mean(fit.fitter, FITTERS)}"
    else:
        yield from _check_fields(FITTERS[fit.fitter], fit)
    for name in fit.compare:
        if name not in FITTERS:
            yield ("fit", "compare"), f"unknown fitter '{name}'{did_you_mean(name, FITTERS)}"
        elif fit.fitters.count(name) > 1:
            yield ("fit", "compare"), f"'{name}' is named twice; it would be compared with itself"


def _check_fields(fitter: type, fit: FitSpec) -> Iterator[Problem]:
    known = {field.name: field for field in dataclasses.fields(fitter) if field.init}
    hints = get_type_hints(fitter)
    wrong = 0
    for name, value in fit.fields.items():
        message = field_problem(name, value, known, hints)
        if message:
            wrong += 1
            yield ("fit", "fields", name), message
    if wrong:
        return
    try:
        fitter(**fit.fields)
    except (SteeringError, ValueError, TypeError) as error:
        yield ("fit", "fields"), f"{fit.fitter}: {' '.join(str(error).split())}"


def field_problem(name: str, value: Any, known: Mapping[str, Any], hints: Mapping[str, Any]) -> str | None:
    """What is wrong with one field's value, or None. known, hints: of the dataclass."""
    if not known:
        return "unknown field; this fitter has none"
    if name not in known:
        return f"unknown field{did_you_mean(name, known)}"
    try:
        TypeAdapter(hints[name]).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        return f"{first[0].lower()}{first[1:]}, got {value!r}"
    return None
