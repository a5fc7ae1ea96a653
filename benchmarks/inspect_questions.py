"""A task of Inspect: the short questions of `recipes/concise_questions.jsonl`, whose answers must contain a word.

    trimtab validate cheerful --inspect benchmarks/inspect_questions.py --tokens 48

It needs `pip install 'trimtab[inspect]'`; docs/how-to/inspect.md shows what comes out.
"""

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

QUESTIONS = Path(__file__).parents[1] / "recipes" / "concise_questions.jsonl"


@task
def short_questions() -> Task:
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    dataset = [Sample(input=row["question"], target=row["answer"], id=k) for k, row in enumerate(rows)]
    return Task(dataset=dataset, solver=generate(), scorer=includes())
