"""KL on text that steered models write, for several plans in one batch.

A decoding step of a few rows costs nearly what a step of one row costs: the weights must pass anyway. So plans that
need the same rollouts write side by side, each on its own rows; and the logits that wrote a token are the steered ones
that its KL needs, so only the base model reads the text again.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan, steer_rows
from trimtab.steering.price.kl import finished, kl_at
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, Draw, decode

ROWS = 64  # in one batch
KEPT = 2**29  # bytes of logits held until the base model has read the text


def rolled_divergences(
    scorer: Scorer, plans: Sequence[SteeringPlan], prompts: Sequence[Tokens], decoding: Decoding
) -> list[list[np.ndarray]]:
    """Per plan and prompt, KL(steered || base), nats, at every token that the steered model wrote: float64 `[n_i]`.

    The same numbers as `rollout_divergences` plan by plan, within the float tolerance: row k of every plan draws from
    stream `seed + k`.
    """
    found: list[list[np.ndarray]] = [[] for _ in plans]
    rows = rows_at_once(scorer, decoding)
    for first in range(0, len(prompts), rows):
        some = prompts[first : first + rows]
        size, stream = max(1, rows // len(some)), replace(decoding, seed=decoding.seed + first)
        for start in range(0, len(plans), size):
            for k, spent in enumerate(_group(scorer, plans[start : start + size], some, stream), start):
                found[k] += spent
    return found


def rows_at_once(scorer: Scorer, decoding: Decoding) -> int:
    """Rows of one batch: as many as pay, and as their logits fit into what is kept."""
    vocabulary = int(scorer.model.config.get_text_config().vocab_size)
    return max(1, min(ROWS, KEPT // max(4 * decoding.max_new_tokens * vocabulary, 1)))


def mean_divergence(per_text: Sequence[np.ndarray]) -> float:
    """Mean nats per token; inf when the steered logits were not finite, or nothing was written."""
    values = np.concatenate(per_text)
    return float(values.mean()) if len(values) and np.isfinite(values).all() else math.inf


def _group(
    scorer: Scorer, plans: Sequence[SteeringPlan], prompts: Sequence[Tokens], decoding: Decoding
) -> list[list[np.ndarray]]:
    rows, steps = [*prompts] * len(plans), list[Tensor]()
    draw = Draw(decoding, [decoding.seed + k for k in range(len(prompts))] * len(plans))
    lengths = [row.prompt_length for row in rows]
    with torch.inference_mode(), steer_rows(scorer.model, plans, lengths):
        written = decode(scorer.model, rows, draw, decoding.max_new_tokens, steps.append)
    found = [np.zeros(0)] * len(rows)
    for base in scorer.forced(finished(scorer.model, rows, written, decoding)):
        k, n = base.example, len(base.targets)
        steered = torch.stack([step[k] for step in steps[:n]]).float()
        found[k] = kl_at(decoding.sampling, steered, base.logits)
    return [found[p : p + len(prompts)] for p in range(0, len(rows), len(prompts))]
