"""Operators: what replaces the activations of an ablated unit. No choice is neutral, and each answers another question,
so every result carries the operator's name and reference.

    zero        zeros. Also removes constant outputs (other operators miss a head that only feeds the attention sink)
    mean        the mean over the reference questions; the first token, an attention sink, has a mean of its own
    resample    the activations of another reference question, aligned at the end of the prompt
    corrupted   the activations of the same question's corrupted prompt: removes only what distinguishes the two prompts
    uniform     equal attention to all visible tokens ("undifferentiated attention", arXiv 2410.13708); values unchanged
    scale:x     x times the activation; scale:0 is zero
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.patching import activations
from trimtab.steering.causal.question import Batch, Question, question_batches
from trimtab.steering.errors import BadQuestion, UnknownName
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site

PLAIN = ("zero", "mean", "resample", "corrupted", "uniform")
REFERRING = ("mean", "resample")


@dataclass(frozen=True)
class Operator:
    """name: one of PLAIN, or `scale`. factor: of scale. seed: of the partners that resample draws."""

    name: str = "mean"
    factor: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in (*PLAIN, "scale"):
            raise UnknownName("operator", self.name, (*PLAIN, "scale:x"))
        if not np.isfinite(self.factor):
            raise UnknownName("operator", str(self), (*PLAIN, "scale:x with a finite x"))

    def __str__(self) -> str:
        return f"scale:{self.factor:g}" if self.name == "scale" else self.name

    @classmethod
    def parse(cls, text: "str | Operator") -> "Operator":
        """Read `zero`, `mean`, `resample`, `corrupted`, `uniform` or `scale:0.5`. Raises UnknownName."""
        if isinstance(text, Operator):
            return text
        name, colon, factor = str(text).partition(":")
        if name != "scale":
            return cls(str(text))
        try:
            return cls(name, float(factor))
        except ValueError:
            raise UnknownName("operator", str(text), (*PLAIN, "scale:x")) from None


@dataclass(frozen=True, eq=False)
class ReferenceRuns:
    """Activations of reference questions, by whole site. rows: per question `[length d]`. first, rest: `[d]` means over
    the questions' first tokens, and over all others."""

    rows: dict[Site, list[Tensor]]
    first: dict[Site, Tensor]
    rest: dict[Site, Tensor]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, anatomy: Anatomy, questions: Sequence[Question], sites: Sequence[Site]) -> "ReferenceRuns":
        """Run the questions once. Raises BadQuestion when there are fewer than 2, or none of more than one token."""
        if len(questions) < 2 or all(question.length < 2 for question in questions):
            raise BadQuestion(f"{len(questions)} reference questions: a mean or a partner needs 2 of 2 tokens or more")
        rows: dict[Site, list[Tensor]] = {site: [torch.empty(0)] * len(questions) for site in sites}
        device = anatomy.device
        for batch in question_batches(questions, device):
            outputs, _ = activations(anatomy, batch, sites)
            for k, number in enumerate(batch.numbers):
                for site in sites:
                    rows[site][number] = outputs[site][k, : questions[number].length].float()
        first = {site: torch.stack([r[0] for r in rows[site]]).double().mean(0).float() for site in sites}
        rest = {site: torch.cat([r[1:] for r in rows[site]]).double().mean(0).float() for site in sites}
        return cls(rows, first, rest, tuple(question.length for question in questions))

    def mean(self, site: Site, columns: int) -> Float[Tensor, "1 s d"]:
        """`[1 s d]`, the replacement of mean ablation for every column of a right-padded batch."""
        return torch.stack([self.first[site], *[self.rest[site]] * (columns - 1)])[None]

    def resampled(self, site: Site, batch: Batch, questions: Sequence[Question], seed: int) -> Float[Tensor, "b s d"]:
        """`[b s d]`, for each row the activations of a random other question (its partner), aligned at the end of the
        prompt. The first token always gets the partner's first token; where the partner is too short, its second token
        is repeated."""
        partner_rows = torch.zeros(
            batch.rows, batch.clean.shape[1], self.first[site].shape[-1], device=self.first[site].device
        )
        for k, number in enumerate(batch.numbers):
            rows = self.rows[site][self._partner(number, seed)]
            n, m = questions[number].length, len(rows)
            places = (torch.arange(n) - n + m).clamp(min=min(1, m - 1))
            places[0] = 0
            partner_rows[k, :n] = rows[places]
        return partner_rows

    def _partner(self, number: int, seed: int) -> int:
        others = [k for k in range(len(self.lengths)) if k != number]
        return int(np.random.default_rng([seed, number]).choice(others))


def replacement(
    operator: Operator, reference: ReferenceRuns | None, anatomy: Anatomy, batch: Batch, questions: Sequence[Question]
) -> "Replacement":
    """The operator's replacement activations for this batch. Raises BadQuestion when reference questions or corrupted
    prompts are missing that the operator needs."""
    if operator.name in REFERRING and reference is None:
        raise BadQuestion(f"operator '{operator}' needs reference questions, whose activations it puts in")
    if operator.name == "corrupted" and batch.corrupted is None:
        raise BadQuestion("operator 'corrupted' needs questions with a corrupted prompt; use mean, or give one")
    return Replacement(operator, reference, anatomy, batch, tuple(questions), {})


@dataclass(frozen=True, eq=False)
class Replacement:
    """The activations that an operator puts in, for one batch, computed when a site needs them. cached: by site,
    activations of the corrupted run or of the partners, computed at the first call."""

    operator: Operator
    reference: ReferenceRuns | None
    anatomy: Anatomy
    batch: Batch
    questions: tuple[Question, ...]
    cached: dict[Site, Tensor]

    def prepare(self, sites: Sequence[Site]) -> None:
        """Run the corrupted prompts once, for all sites that are needed."""
        missing = [site for site in sites if site not in self.cached]
        if self.operator.name == "corrupted" and missing:
            self.cached.update(activations(self.anatomy, self.batch, missing, "corrupted")[0])

    def at(self, site: Site, h: Float[Tensor, "copies b s d"]) -> Tensor:
        """The replacement for h at a site, of h's shape or one that broadcasts to it."""
        name = self.operator.name
        if name in ("zero", "scale"):
            return h * (self.operator.factor if name == "scale" else 0.0)
        if name == "corrupted":
            return self.cached[site].to(h.dtype)
        assert self.reference is not None
        if name == "mean":
            return self.reference.mean(site, h.shape[2]).to(h.dtype)
        if site not in self.cached:
            self.cached[site] = self.reference.resampled(site, self.batch, self.questions, self.operator.seed)
        return self.cached[site].to(h.dtype)
