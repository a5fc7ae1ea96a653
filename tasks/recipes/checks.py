"""What must agree between the sections of a behaviour recipe. Each check yields (key, message); the reader adds file
and line."""

from collections.abc import Iterator

from trimtab.steering.fitters import FITTERS, Method, ModelFitter
from trimtab.steering.model.site import POINTS, WITHOUT_BLOCK
from trimtab.tasks.errors import did_you_mean
from trimtab.tasks.recipes.methods import method_problems
from trimtab.tasks.recipes.problems import Problem
from trimtab.tasks.recipes.sections import CaptureSpec, FitSpec


def check_sections(capture: CaptureSpec, fit: FitSpec) -> Iterator[Problem]:
    """All disagreements between what is captured and what is fitted."""
    yield from _check_point(capture, fit)
    for key, message in method_problems(FITTERS, "fitter", fit.fitter, fit.fields, "fitter"):
        yield ("fit", *key), message
    yield from _check_rivals(fit)
    yield from _check_heads(capture, fit)


def _check_point(capture: CaptureSpec, fit: FitSpec) -> Iterator[Problem]:
    if fit.point not in POINTS:
        yield ("fit", "point"), f"unknown point '{fit.point}'{did_you_mean(fit.point, POINTS)}"
    elif fit.point not in capture.points:
        points = ", ".join(capture.points)
        yield ("fit", "point"), f"'{fit.point}' is not captured (capture.points: {points}); add it there"
    if capture.blocks != "all" and set(capture.points) <= set(WITHOUT_BLOCK):
        yield ("capture", "blocks"), f"{', '.join(capture.points)} has no blocks; remove `blocks`"


def _check_rivals(fit: FitSpec) -> Iterator[Problem]:
    for number, rival in enumerate(fit.rivals):
        if rival.name not in FITTERS:
            yield ("fit", "compare"), f"unknown fitter '{rival.name}'{did_you_mean(rival.name, FITTERS)}"
        elif fit.fitters.count(rival.name) > 1:
            yield ("fit", "compare"), f"'{rival.name}' is named twice; it would be compared with itself"
        else:
            for key, message in method_problems(FITTERS, "fitter", rival.name, rival.fields, "name"):
                yield ("fit", "compare", number, *key), message


def _check_heads(capture: CaptureSpec, fit: FitSpec) -> Iterator[Problem]:
    on_heads = [name for name in fit.fitters if name in FITTERS and _acts_on_heads(FITTERS[name])]
    if on_heads and "z" not in capture.points:
        points = ", ".join(capture.points)
        yield ("fit", "fitter"), f"{on_heads[0]} acts at heads, but capture.points is {points}; add z there"


def _acts_on_heads(method: type[Method]) -> bool:
    return issubclass(method, ModelFitter) and method.acts_on_heads
