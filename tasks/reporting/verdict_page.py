"""The page of a verdict: what a plan achieves beside its placebos, and what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.steering.judge.harness import HarnessResult
from trimtab.steering.judge.verdict import Verdict
from trimtab.tasks.reporting.answer_sections import answered, generated
from trimtab.tasks.reporting.document import Section, contents, document
from trimtab.tasks.reporting.drawing.verdict import read_verdict
from trimtab.tasks.reporting.effect_sections import ablated, contended, curved, searched
from trimtab.tasks.reporting.harness_section import harnessed
from trimtab.tasks.reporting.price_sections import billed, dosed, spread
from trimtab.tasks.reporting.provenance import provenance_section, words
from trimtab.tasks.reporting.summary import headline


def verdict_page(
    verdict: Mapping[str, Any], provenance: Mapping[str, Any], harnesses: Sequence[HarnessResult] = ()
) -> str:
    """The whole document; the same input gives the same bytes. The verdict is inside it as JSON, to be taken out again.

    verdict: `Verdict.to_json()`, also after a trip through JSON text. provenance: its keys are in
    `reporting/provenance.py`, all optional. harnesses: what other evaluation harnesses said of the plan. Raises
    ValueError naming a required field that is missing.
    """
    read = read_verdict(verdict)
    parts = sections(read, provenance, harnesses)
    reference = provenance.get("ref")
    top = headline(read, None if reference is None else str(reference))
    return document(f"{read.plan}: verdict", [top, contents(parts)], verdict)


def sections(verdict: Verdict, provenance: Mapping[str, Any], harnesses: Sequence[HarnessResult] = ()) -> list[Section]:
    """In reading order, all of them, also those with nothing to show; answers only where questions were asked, other
    harnesses only where one was run."""
    return [
        searched(verdict),
        contended(verdict),
        curved(verdict),
        spread(verdict),
        dosed(verdict),
        ablated(verdict),
        *([answered(verdict)] if verdict.answering else []),
        generated(verdict, words(provenance.get("lexicon"))),
        billed(verdict),
        *([harnessed(harnesses)] if harnesses else []),
        provenance_section(provenance, verdict.splits),
    ]
