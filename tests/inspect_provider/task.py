"""A task of Inspect: three questions, whose answers must contain a word."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "What colour is the sky on a clear day?": "blue",
    "Tell me about your day.": "day",
}


@task
def questions() -> Task:
    dataset = [Sample(input=question, target=word) for question, word in QUESTIONS.items()]
    return Task(dataset=dataset, solver=generate(), scorer=includes())
