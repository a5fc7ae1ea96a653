"""The section of a page that shows the scores of another evaluation harness, without and with the plan."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.steering.judge.harness import HarnessResult
from trimtab.tasks.reporting.document import Section, contents, document
from trimtab.tasks.reporting.drawing.html import Html, code, el, join, note, p, table
from trimtab.tasks.reporting.drawing.numbers import NATS, estimate, plural, shorten
from trimtab.tasks.reporting.provenance import provenance_section

COLUMNS = ("score", "base", "steered", "change, sample by sample")


def harnessed(results: Sequence[HarnessResult]) -> Section:
    """One table a run, the newest last."""
    lead = note(
        "Tasks of another harness, run on the untouched model and on the steered one at its published strength. "
        "Changes are paired: both models answered the same samples, which are resampled with all of their answers."
    )
    return Section("harness", "Harness", "On other tasks", [lead, join([_run(result) for result in results])])


def _run(result: HarnessResult) -> Html:
    left_out = f" {plural(result.left_out, 'answer')} had no score under one of the models." if result.left_out else ""
    spent = f" The steered answers spent {estimate(result.nats)} {NATS}." if result.nats else ""
    facts = p(
        f"{shorten(result.task, 80)} in {result.harness}, {result.decoding}: {plural(result.samples, 'answer')} scored "
        f"under both.{left_out}{spent}"
    )
    rows = [
        (score.name, estimate(score.base), estimate(score.steered), estimate(score.difference, True))
        for score in result.scores
    ]
    logs = p("Logs: ", join([el("span", {}, code(name), " ") for name in result.logs])) if result.logs else None
    return el("div", {}, facts, table(f"Scores of {shorten(result.task, 80)}", COLUMNS, rows), logs)


def harness_page(ref: str, results: Sequence[HarnessResult], provenance: Mapping[str, Any], numbers: Any) -> str:
    """The page of a plan that has no verdict of its own. numbers: travel inside it as JSON."""
    parts = [harnessed(results), provenance_section(provenance, {})]
    return document(f"{ref}: on other tasks", [el("h1", {}, ref), contents(parts)], numbers)
