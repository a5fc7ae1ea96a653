"""Off-target cost: how much ablating a set changes predictions on text unrelated to the task. KL(base || ablated), nats
per token, teacher-forced, so that both models read the same tokens. The first token is not scored, since nothing
precedes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from trimtab.steering.ablation.runs import Ablator, Set
from trimtab.steering.causal.question import Question, question_batches
from trimtab.steering.errors import BadQuestion
from trimtab.steering.model.divergence import kl_divergence
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.price.kl import not_negative
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap, Interval, ratio_interval

BUDGET = 256  # tokens of a pass: each keeps the logits of every token
CUT = 48  # tokens of a text that are read


@dataclass(frozen=True)
class OffTarget:
    """mean: over tokens, interval over texts. p95, max: over tokens. random: mean of each matched random set."""

    mean: Interval
    p95: float
    max: float
    random: tuple[float, ...]
    tokens: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "mean": vars(self.mean), "random": list(self.random)}


def off_target(
    ablator: Ablator, texts: Sequence[Tokens], sets: Sequence[Set], bootstrap: Bootstrap = BOOTSTRAP
) -> OffTarget:
    """The off-target cost of the first set; the other sets (matched random ones) give its comparison. The operator must
    not depend on the text: zero, uniform, scale, or mean (with the task's reference). Raises BadQuestion for resample
    and corrupted, and for texts of one token."""
    if ablator.operator.name in ("resample", "corrupted"):
        raise BadQuestion(f"operator '{ablator.operator}' has nothing to put into neutral text; use mean or zero")
    cut = min(CUT, ablator.anatomy.max_tokens or CUT)
    questions = [as_question(text, cut) for text in texts]
    divergences: list[list[np.ndarray]] = [[np.zeros(0)] * len(texts) for _ in sets]
    narrow = replace(ablator, budget=BUDGET)
    for batch in question_batches(questions, ablator.anatomy.device, BUDGET):
        with torch.no_grad():
            base = batch.logits(ablator.anatomy.model)
        for numbers, rows, logits in narrow.passes(batch, questions, sets):
            # rows are ordered first tokens of all copies first, so each copy's are picked by their row
            for copy, number in enumerate(numbers):
                for k, text in enumerate(batch.numbers):
                    mine, own = rows.row == copy * batch.rows + k, batch.row == k
                    divergences[number][text] = kl_divergence(base[own], logits[mine]).cpu().numpy()
    return _summary(divergences, [text.ids.tobytes() for text in texts], bootstrap)


def as_question(text: Tokens, cut: int = CUT) -> Question:
    """A text of at most `cut` tokens whose every token but the first is an answer to be forced."""
    ids = text.ids[:cut]
    if len(ids) < 2:
        raise BadQuestion("a neutral text of one token predicts nothing; give whole sentences")
    first = Tokens(ids[:1], 1, text.roles[:1], text.special[:1])
    return Question(first, tuple(ids[1:].tolist()))


def _summary(divergences: Sequence[Sequence[np.ndarray]], texts: Sequence[bytes], bootstrap: Bootstrap) -> OffTarget:
    own = np.concatenate(divergences[0])
    sums, counts = np.array([v.sum() for v in divergences[0]]), np.array([len(v) for v in divergences[0]])
    return OffTarget(
        mean=not_negative(ratio_interval(sums, counts, bootstrap, texts)),
        p95=float(np.quantile(own, 0.95)),
        max=float(own.max()),
        random=tuple(float(np.concatenate(one).mean()) for one in divergences[1:]),
        tokens=len(own),
    )
