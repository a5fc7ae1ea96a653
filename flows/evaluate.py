"""evaluate: a published plan in another evaluation harness, without and with it, added to its report."""

from dataclasses import dataclass

from trimtab.flows.job import job
from trimtab.tasks.inspect.evaluation import evaluate_task
from trimtab.tasks.inspect.options import Evaluation
from trimtab.tasks.references import Reference
from trimtab.tasks.reporting.command import command
from trimtab.tasks.reporting.verdict_report import harness_report_task


@dataclass(frozen=True)
class Evaluated:
    """The version that holds the scores, and the path of the report that shows them."""

    scores: Reference
    report: str


@job("evaluate", "evaluate-{ref}")
def evaluate(ref: str, home: str, evaluation: Evaluation) -> Evaluated:
    """Run a task of Inspect on the plan's model, unsteered and steered at the published strength."""
    scores = evaluate_task(ref, home, evaluation)
    again = command("validate", ref, home, evaluation.words)
    return Evaluated(scores, harness_report_task(scores.ref, home, again))
