"""Token bias: the rival that needs no activations. A fixed number per token of the vocabulary, added to the logits
everywhere, fitted to the same pairs as the plan and dosed to the same KL. A plan that does no better has found which
words the wanted answers use, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.judge.bench import Bench
from trimtab.steering.judge.effect import margins
from trimtab.steering.judge.judged import Judged
from trimtab.steering.judge.verdict import Contender
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.logit_bias import logit_bias, takes_bias
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.price.kl import kl_at
from trimtab.steering.price.rollouts import mean_divergence, roll_out_together
from trimtab.steering.price.strength import Solution, find_strength
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.progress import Progress
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding

KIND = "token_bias"
PSEUDO_COUNT = 1.0  # of every token on both sides: what was seen once is not believed
GUESSED_ON = 4  # pairs whose logits give the first strength


def judged_bias(bench: Bench, progress: Progress) -> list[Judged]:
    """The bias at the budget. Empty when the input has no pairs to fit it on, they use the same tokens equally often,
    or the model's head takes none."""
    pairs = [pair.shortened(bench.settings.completion_tokens) for pair in bench.input.texts.fit]
    if not pairs or not takes_bias(bench.input.model):
        return []
    bias = fitted_bias(pairs, Anatomy.of(bench.input.model).d_vocab)
    if not bool(bias.any()):
        return []
    progress("token bias", 0, 1)
    rival = _Biased(bench, bias)
    dose = rival.dosed()
    margin, written = rival.margins(dose.strength), rival.written(dose.strength)
    effect = bench.behaved(bench.effect(margin), written)
    progress("token bias", 1, 1)
    spent = (dose.strength, bench.input.budget, dose.achieved, dose.reachable)
    return [Judged(Contender("token bias", KIND, *spent, effect), None, margin)]


def fitted_bias(pairs: Sequence[AnswerPair], vocabulary: int) -> Float[Tensor, "v"]:
    """`b_v = (n+_v - n-_v) / (n+_v + n-_v + 2 a)`, n how often a token is in the positive and in the negative
    completions.

    To first order the best bias per nat is the margin's gradient over Fisher's information. The gradient with respect
    to a bias is the difference of the token's frequencies (what the model predicts cancels between both answers to one
    prompt), and Fisher's diagonal is how often it comes at all."""
    positive, negative = (
        torch.bincount(torch.from_numpy(np.concatenate([_completion(text) for text in side])), minlength=vocabulary)
        for side in ([pair.positive for pair in pairs], [pair.negative for pair in pairs])
    )
    return (positive - negative) / (positive + negative + 2 * PSEUDO_COUNT)


@dataclass(frozen=True, eq=False)
class _Biased:
    """The model under multiples of one bias. What is computed for the unsteered model is never reused under it, nor the
    other way round: each block has a scorer of its own."""

    bench: Bench
    bias: Float[Tensor, "v"]

    def dosed(self) -> Solution:
        """The strength at the budget, on rollouts, to the tolerance of placebos."""
        how = self.bench.settings.dose
        return find_strength(self._kl, self.bench.input.budget, self._guess(), how.placebo_tolerance, how.cap)

    def margins(self, strength: float) -> Float[np.ndarray, "n"]:
        with logit_bias(self.bench.input.model, strength * self.bias):
            return margins(self._scorer(), self.bench.report.pairs)

    def written(self, strength: float) -> list[Tokens]:
        """Answers to the held-out prompts."""
        return self._answers(strength, self.bench.priced_on.prompts, self.bench.priced_on.decoding)

    def _kl(self, strength: float) -> float:
        calibration = self.bench.calibration
        texts = self._answers(strength, calibration.prompts, calibration.decoding)
        with logit_bias(self.bench.input.model, strength * self.bias):
            under = {one.example: one.logits for one in self._scorer().forced(texts)}
        base = self.bench.scorer.forced(texts)
        sampling = calibration.decoding.sampling
        return mean_divergence([kl_at(sampling, under[one.example], one.logits) for one in base])

    def _answers(self, strength: float, prompts: Sequence[Tokens], decoding: Decoding) -> list[Tokens]:
        with logit_bias(self.bench.input.model, strength * self.bias):
            return roll_out_together(self._scorer(), [None], prompts, decoding)[0]

    def _guess(self) -> float:
        """`KL = s^2 / 2 Var(b)` under the base model's own distributions."""
        texts = [text for pair in self.bench.report.pairs[:GUESSED_ON] for text in (pair.positive, pair.negative)]
        variances = []
        for one in self.bench.scorer.forced(texts):
            p, bias = one.logits.softmax(-1), self.bias.to(one.logits)
            variances.append(p @ bias**2 - (p @ bias) ** 2)
        mean = float(torch.cat(variances).mean())
        return float((2 * self.bench.input.budget / mean) ** 0.5) if mean > 0 else 1.0

    def _scorer(self) -> Scorer:
        return Scorer(self.bench.input.model)


def _completion(text: Tokens) -> np.ndarray:
    return np.asarray(text.ids[text.prompt_length :], dtype=np.int64)
