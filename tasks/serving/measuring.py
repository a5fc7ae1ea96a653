"""Measuring: the nats of finished answers, many of them in one pass.

An answer's steered logits come by when it is written. What is missing is what the unsteered model gives for the same
text, and that is the same question whatever plan steered: answers that wait together are read in one batch, by the base
model alone. Answers whose steered logits are not there (too long, or not written by continuous batching) are run a
second time under their plan.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, kl_at, steered_from_base
from trimtab.steering.running.sampling import Sampling
from trimtab.steering.running.scorer import Scorer
from trimtab.tasks.serving.lanes import BodyThread, Row


@dataclass(frozen=True, eq=False)
class Finished:
    """rows: of one answer, written under `plan`. sampling: at which the KL is taken. done: when nats are there."""

    rows: Sequence[Row]
    plan: SteeringPlan
    sampling: Sampling
    done: Future[None] = field(default_factory=Future)


class Measuring:
    """A body and its thread, which measures everything that waits whenever it is free."""

    def __init__(self, bench: BodyThread):
        self._bench = bench
        self._waiting: list[Finished] = []
        self._lock = threading.Lock()

    def submit(self, answer: Finished) -> Future[None]:
        """The future is done when the answer's choices have their nats."""
        with self._lock:
            self._waiting.append(answer)
        self._bench.thread.submit(self._measure_all)
        return answer.done

    def _measure_all(self) -> None:
        with self._lock:
            answers, self._waiting = self._waiting, []
        live = [answer for answer in answers if answer.done.set_running_or_notify_cancel()]
        if not live:
            return
        try:
            measure(self._bench.body, live)
        except Exception as error:
            for answer in live:
                answer.done.set_exception(error)
        else:
            for answer in live:
                answer.done.set_result(None)


def measure(model: PreTrainedModel, answers: Sequence[Finished]) -> None:
    """KL(steered || base) at every token of every choice."""
    scorer = Scorer(model)
    ready = [(row, answer) for answer in answers for row in answer.rows if row[1].ids and row[1].logits_are_whole]
    texts = [prompt.followed_by(choice.ids) for (prompt, choice), _ in ready]
    for base in scorer.base(texts) if texts else ():
        (_, choice), answer = ready[base.example]
        steered = torch.stack(choice.logits).to(base.logits.device)
        nats = kl_at(answer.sampling, steered, base.logits)
        choice.nats = nats.clip(min=0).tolist()  # where no plan acts, two passes that round differently may give -1e-8
        choice.logits.clear()
    for answer in answers:
        _measure_twice(scorer, answer)


def _measure_twice(scorer: Scorer, answer: Finished) -> None:
    """Choices without steered logits: two passes over each text."""
    rows = [(prompt, choice) for prompt, choice in answer.rows if choice.ids and len(choice.nats) < len(choice.ids)]
    texts = [prompt.followed_by(choice.ids) for prompt, choice in rows]
    spent = divergences(scorer, texts, steered_from_base(answer.plan, answer.sampling)) if texts else []
    for (_, choice), nats in zip(rows, spent, strict=True):
        choice.nats = nats.tolist()
