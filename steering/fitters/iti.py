"""Vectors at the heads that tell the classes apart best (inference-time intervention)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from trimtab.steering.errors import BadRows, SteeringError
from trimtab.steering.fitters._at_budget import CHOICES, chosen_heads, name_of_sites, spending
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.learning.examples import Examples
from trimtab.steering.learning.pooled import pooled
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import LAST, Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.progress import Progress, silent

END = "end"  # reads the last token of each text
DIRECTIONS = ("mean", "probe")
FOLDS = 4  # of the pairs, where none are held out


@dataclass(frozen=True)
class ITI(ModelFitter):
    """`z_h <- z_h + s sigma_h theta_h` at the `heads` heads whose probes tell the classes apart best

    Source: Li et al. 2023, arXiv 2306.03341 (ITI). A logistic probe per head reads the output of the text's last
    token; heads are ranked by its accuracy on the held-out pairs. theta is the unit difference of the class means (or
    the probe's weights), sigma the standard deviation of the rows along it. The paper takes 48 of 1,024 heads and
    tunes one s; here s is such that linear response forecasts the budget at strength 1. The released code takes sigma
    and theta from rows on which heads are chosen; here both come from the pairs alone.

    Special case: with one head and `mean` it is mean_difference at that head, at another length.

    heads: how many. direction: mean or probe. reading: `end`, the last token of the text, or a span whose mean is read.
    choice: `best`, by the probes, or `random`: the control, the same vectors at as many other heads.
    """

    acts_on_heads: ClassVar[bool] = True
    source: ClassVar[str] = "Li et al. 2023, arXiv 2306.03341 (ITI)"

    heads: int = 12
    direction: Literal["mean", "probe"] = "mean"
    reading: str = END
    choice: Literal["best", "random"] = "best"

    def __post_init__(self) -> None:
        if self.reading != END:
            Span.parse(self.reading)
        if self.heads < 1 or self.direction not in DIRECTIONS or self.choice not in CHOICES:
            raise SteeringError(
                f"iti: {self.heads} heads by '{self.choice}' along '{self.direction}' are no plan; give a positive "
                f"number of heads, {' or '.join(CHOICES)} and {' or '.join(DIRECTIONS)}"
            )

    def fit(
        self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], progress: Progress = silent
    ) -> dict[str, SteeringPlan]:
        rows = _HeadRows.of(anatomy, examples.pairs, _blocks(sites), self.reading)
        judged = _HeadRows.of(anatomy, examples.held_out, rows.blocks, self.reading) if examples.held_out else None
        probes = {}
        for done, site in enumerate(rows.heads):
            progress("learning", done, len(rows.heads))
            probes[site] = _Probe.of(rows.at(site), judged.at(site) if judged else None)
        progress("learning", len(rows.heads), len(rows.heads))
        ranked = sorted(probes, key=lambda site: -probes[site].accuracy)
        acting = chosen_heads(ranked, self.heads, self.choice, examples.seed)
        steps = [self._step(site, rows.at(site), probes[site], examples.span) for site in acting]
        plan = spending(anatomy, examples, SteeringPlan(tuple(steps), anatomy.fingerprint))
        return {name_of_sites(plan.sites): plan}

    def _step(self, site: Site, sides: "Sides", probe: "_Probe", span: Span) -> Intervention:
        positive, negative = sides
        direction = positive.mean(0) - negative.mean(0) if self.direction == "mean" else probe.weights
        if not float(direction.norm()) > 0:
            raise BadRows(f"iti: both classes have the same mean at {site}; read another span than '{self.reading}'")
        theta = direction / direction.norm()
        sigma = (torch.cat([positive, negative]) @ theta).std(unbiased=False)
        return Intervention(site, Add((sigma * theta).float()), span)


Sides = tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]  # rows of the positive and of the negative texts


@dataclass(frozen=True, eq=False)
class _HeadRows:
    """Rows of every head in some blocks. by_block: of the whole `z`, positive and negative. width: of one head."""

    by_block: dict[Site, Sides]
    width: int

    @classmethod
    def of(cls, anatomy: Anatomy, pairs: Sequence[AnswerPair], blocks: Sequence[Site], reading: str) -> "_HeadRows":
        span = LAST if reading == END else Span.parse(reading)
        sides = [[pair.positive for pair in pairs], [pair.negative for pair in pairs]]
        if reading == END:
            sides = [[_as_prompt(text) for text in side] for side in sides]
        with torch.no_grad():
            positive, negative = (pooled(anatomy, None, side, blocks, span) for side in sides)
        rows = {site: (p, n) for site, p, n in zip(blocks, positive, negative, strict=True)}
        return cls(rows, anatomy.width(Site("z", blocks[0].block, 0)))

    @property
    def blocks(self) -> list[Site]:
        return list(self.by_block)

    @property
    def heads(self) -> list[Site]:
        """Every head, by block."""
        counts = {site: sides[0].shape[1] // self.width for site, sides in self.by_block.items()}
        return [Site("z", site.block, head) for site, count in counts.items() for head in range(count)]

    def at(self, site: Site) -> Sides:
        start = (site.head or 0) * self.width
        positive, negative = self.by_block[site.whole]
        return positive[:, start : start + self.width], negative[:, start : start + self.width]


@dataclass(frozen=True, eq=False)
class _Probe:
    """A logistic probe of one head. accuracy: on rows that it was not fitted to. weights: `[d]`."""

    accuracy: float
    weights: Float[Tensor, "d"]

    @classmethod
    def of(cls, sides: Sides, held_out: Sides | None) -> "_Probe":
        probe = _fitted(sides)
        accuracy = _accuracy(probe, held_out) if held_out else _cross_validated(sides)
        return cls(accuracy, torch.from_numpy(probe.coef_[0]).float().to(sides[0].device))


def _fitted(sides: Sides) -> LogisticRegression:
    return LogisticRegression(max_iter=1000).fit(*_labelled(sides))


def _accuracy(probe: LogisticRegression, sides: Sides) -> float:
    return float(probe.score(*_labelled(sides)))


def _cross_validated(sides: Sides) -> float:
    """Mean accuracy over folds of pairs."""
    folds = np.arange(len(sides[0])) % min(FOLDS, len(sides[0]))
    scores = []
    for fold in range(folds.max() + 1):
        inside, outside = torch.from_numpy(folds != fold), torch.from_numpy(folds == fold)
        probe = _fitted((sides[0][inside], sides[1][inside]))
        scores.append(_accuracy(probe, (sides[0][outside], sides[1][outside])))
    return float(np.mean(scores))


def _labelled(sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    positive, negative = (side.double().cpu().numpy() for side in sides)
    return np.concatenate([positive, negative]), np.repeat([1, 0], [len(positive), len(negative)])


def _as_prompt(text: Tokens) -> Tokens:
    """The text as one long prompt, whose last token is the text's."""
    return Tokens(text.ids, len(text), text.roles, text.special)


def _blocks(sites: Sequence[Site]) -> list[Site]:
    """All heads of the blocks in which the given sites lie. Raises SteeringError when no site has a block."""
    blocks = sorted({site.block for site in sites if site.block is not None})
    if not blocks:
        raise SteeringError("iti acts on heads, but no site with a block was given; give sites of the blocks to search")
    return [Site("z", block) for block in blocks]
