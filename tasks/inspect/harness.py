"""Harness: Inspect itself, in this process, on one model without and with a plan, and what its logs say."""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from inspect_ai import __version__ as VERSION
from inspect_ai import eval as inspect_eval
from inspect_ai._util.error import PrerequisiteError

from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.harness import HarnessResult, HarnessScore, SampleKey, harness_score, nats_per_token
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.inspect.options import Evaluation
from trimtab.tasks.recipes.sections import ModelSpec

WORDS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
Scores = dict[str, dict[SampleKey, float]]  # of each scorer


def run(model: ModelSpec, ref: str, home: Home, evaluation: Evaluation) -> HarnessResult:
    """Run the task on `model`, then on `model` under the plan of `ref`. Logs lie in `inspect/` beside the reports.

    Raises RecipeError when Inspect cannot run the task, or no scorer gives numbers for at least two samples.
    """
    base, steered = _logs(model, ref, home, evaluation)
    before, after = scores_of(base), scores_of(steered)
    try:
        scores = [harness_score(name, before[name], after[name]) for name in before if name in after]
    except SteeringError as error:
        raise RecipeError(f"{evaluation.task}: {error}") from None
    if not scores:
        raise RecipeError(f"{evaluation.task}: no scorer gave a number, so nothing can be compared; see {_place(home)}")
    return HarnessResult(
        harness=f"inspect-ai {VERSION}",
        task=str(base.eval.task),
        samples=max(score.difference.n for score in scores),
        left_out=_left_out(scores, base, steered),
        decoding=evaluation.decoding,
        scores=tuple(scores),
        nats=nats_per_token(dict(_nats(steered))),
        logs=tuple(Path(str(log.location)).name for log in (base, steered)),
    )


def _place(home: Home) -> Path:
    return home.reports.with_name("inspect")


def _logs(model: ModelSpec, ref: str, home: Home, evaluation: Evaluation) -> tuple[Any, Any]:
    """Inspect's log of the unsteered and of the steered model."""
    names = [f"trimtab/{model.id}", f"trimtab/{model.id}@{ref}"]
    try:
        with redirect_stdout(sys.stderr):  # Inspect tells its progress there; stdout is for results
            logs = inspect_eval(
                _relative(evaluation.task),
                model=names,
                model_args={"home": home.url, **model.model_dump(include={"revision", "dtype", "device"})},
                task_args=dict(evaluation.arguments),
                limit=evaluation.limit,
                log_dir=str(_place(home)),
                log_format="eval",
                display="plain",
                score_display=False,
                max_tokens=evaluation.tokens,
                temperature=evaluation.temperature,
                seed=evaluation.seed,
            )
    except PrerequisiteError as error:
        raise RecipeError(f"{evaluation.task}: {error}") from None
    by_model = {str(log.eval.model): log for log in logs}
    if len(logs) != len(names) or set(by_model) != set(names):
        raise RecipeError(
            f"{evaluation.task}: {len(logs)} evaluations ran instead of 2; name one task, as `FILE.py@NAME`"
        )
    for log in logs:
        if log.status != "success":
            reason = log.error.message if log.error else log.status
            raise RecipeError(f"{evaluation.task}: {log.eval.model} ended with '{reason}'; see {log.location}")
    return by_model[names[0]], by_model[names[1]]


def _relative(task: str) -> str:
    """Inspect looks for files below the current folder and takes no absolute path. Raises RecipeError for a file that
    is not there."""
    file, at, name = task.partition("@")
    if Path(file).suffix != ".py":
        return task
    if not Path(file).is_file():
        raise RecipeError(f"{file}: there is no such file; name a file with a task of Inspect")
    return f"{os.path.relpath(file)}{at}{name}"


def scores_of(log: Any) -> Scores:
    """Every number that the scorers gave; a scorer that gives several by name has an entry for each."""
    scores: Scores = {}
    for sample in log.samples or ():
        for scorer, score in (sample.scores or {}).items():
            for name, value in _numbers(scorer, score.value):
                scores.setdefault(name, {})[str(sample.id), sample.epoch] = value
    return scores


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}/{key}", inner)
        return
    if isinstance(value, str):
        value = WORDS.get(value, WORDS.get(value.lower(), _parsed(value)))
    if isinstance(value, int | float) and math.isfinite(value):
        yield name, float(value)


def _parsed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _left_out(scores: list[HarnessScore], base: Any, steered: Any) -> int:
    """Answers that some scorer has no pair of."""
    answered = max(len(log.samples or ()) for log in (base, steered))
    return answered - min(score.difference.n for score in scores)


def _nats(log: Any) -> Iterator[tuple[SampleKey, tuple[float, int]]]:
    """Nats and tokens of every sample's last answer."""
    for sample in log.samples or ():
        for spent in ((sample.output.metadata or {}).get("trimtab") or {}).get("nats") or ():
            yield (str(sample.id), sample.epoch), (spent["total"], len(spent["per_token"]))
