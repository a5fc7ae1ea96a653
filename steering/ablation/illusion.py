"""Patching illusions: does the model use a direction, or does patching it activate a path that is otherwise inactive?
(Makelov, Lange and Nanda 2024, arXiv 2311.17030)

A direction at `mlp_post` or `z` is split into the part that the next projection reads (its row space) and the part that
it does not (its null space). Patching along the sum can have an effect although neither part alone has one: the null
part differs between the two runs and so determines what is patched, and the row part has an effect that the model never
uses by itself. This is evidence and not proof: the test also suspects genuine directions (Wu et al. 2024, arXiv
2401.12631). Null spaces are approximate, hence the cut-off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.ablation.operators import Operator
from trimtab.steering.ablation.runs import Ablator
from trimtab.steering.causal.patching import Run, activations
from trimtab.steering.causal.question import Question, prompts_of, question_batches
from trimtab.steering.causal.units import Unit, direction, unit_of
from trimtab.steering.errors import BadSite
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.site import Site
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap, Interval, mean_interval

CUTOFF = 1e-3  # singular values below this share of the largest count as null
TINY = 1e-6


@dataclass(frozen=True)
class PatchEffect:
    """The effect of patching one unit from the corrupted run into the clean run. drop: nats of the metric lost. share:
    drop as a share of what the corruption itself costs (FLDD, a ratio of means). flipped: share of questions whose
    answer becomes the wrong one."""

    drop: Interval
    share: float
    flipped: float


@dataclass(frozen=True)
class Illusion:
    """norms: `row` and `null`, of the direction with norm 1. variance: share of the site's variance over the questions
    that lies along it. difference: cosine with the mean difference of clean and corrupted activations. effects: of
    `direction`, `row`, `null` (where they exist) and `component`, the whole site. suspected: see `suspicion`."""

    site: str
    norms: Mapping[str, float]
    variance: float
    difference: float
    effects: Mapping[str, PatchEffect]
    suspected: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def split(
    vector: Float[Tensor, "d"], reader: Float[Tensor, "d out"], cutoff: float = CUTOFF
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """The vector as a sum of two parts: what the reader's row space contains, and the rest, which it maps to 0. reader:
    `y = x @ reader`. cutoff: singular values below this share of the largest count as 0."""
    left, sizes, _ = torch.linalg.svd(reader.double(), full_matrices=False)
    axes = left[:, sizes > cutoff * sizes[0]]
    row = (axes @ (axes.T @ vector.double())).float()
    return row, vector - row


def reader_of(anatomy: Anatomy, site: Site) -> Float[Tensor, "d out"]:
    """The weights that read a site: the output projection of z, the down projection of mlp_post. Raises BadSite for
    residual sites, which everything behind them reads; give `diagnose` the weights of the readers you mean."""
    if site.point not in ("z", "mlp_post") or site.head is not None:
        raise BadSite(f"{site} has no single reader; give the weights that read it, for example W_Q of the later heads")
    return out_weight(anatomy.place(site).module).detach().float()


def diagnose(
    anatomy: Anatomy,
    questions: Sequence[Question],
    site: Site,
    vector: Float[Tensor, "d"],
    reader: Float[Tensor, "d out"] | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> Illusion:
    """All diagnostics of one direction at a whole site. Questions need corrupted prompts and wrong answers."""
    unit = vector.float() / vector.float().norm()
    row, null = split(unit, reader_of(anatomy, site) if reader is None else reader)
    tried = {"direction": direction(site, unit), "component": unit_of(anatomy, site)}
    for name, part in (("row", row), ("null", null)):
        if part.norm() > TINY:
            tried[name] = direction(site, part, name)
    effects = _effects(anatomy, questions, tried, bootstrap)
    variance, difference = _along(anatomy, questions, site, unit)
    norms = {"row": float(row.norm()), "null": float(null.norm())}
    return Illusion(str(site), norms, variance, difference, effects, suspicion(effects))


def suspicion(effects: Mapping[str, PatchEffect]) -> bool:
    """True when the direction acts (its interval is above 0) and either the whole component or the part that is read
    does less than half of that."""
    whole = effects["direction"]
    if whole.drop.low <= 0:
        return False
    row = effects["row"].drop.mean if "row" in effects else 0.0
    return min(row, effects["component"].drop.mean) < 0.5 * whole.drop.mean


def _effects(
    anatomy: Anatomy, questions: Sequence[Question], tried: Mapping[str, Unit], bootstrap: Bootstrap
) -> dict[str, PatchEffect]:
    metrics = Ablator(anatomy, Operator("corrupted")).metrics(questions, [[], *[[unit] for unit in tried.values()]])
    swapped = [Question(q.corrupted, q.target, None, q.wrong) for q in questions if q.corrupted is not None]
    lost = (metrics[0] - Ablator(anatomy).metrics(swapped, [[]])[0]).mean()
    prompts = prompts_of(questions)
    return {
        name: PatchEffect(
            mean_interval(metrics[0] - rows, bootstrap, prompts),
            float((metrics[0] - rows).mean() / lost),
            float((rows < 0).mean()),
        )
        for name, rows in zip(tried, metrics[1:], strict=True)
    }


def _along(anatomy: Anatomy, questions: Sequence[Question], site: Site, unit: Tensor) -> tuple[float, float]:
    """Share of the variance along the unit vector, and its cosine with the mean difference, at the last token."""
    clean, corrupted = (_last_rows(anatomy, questions, site, side) for side in ("clean", "corrupted"))
    rows = torch.cat([clean, corrupted])
    spread = rows - rows.mean(0)
    along = unit.to(rows.device)
    mean = (clean - corrupted).mean(0)
    share = float((spread @ along).square().sum() / spread.square().sum().clamp(min=1e-30))
    return share, float(mean @ along / mean.norm().clamp(min=1e-30))


def _last_rows(anatomy: Anatomy, questions: Sequence[Question], site: Site, side: Run) -> Tensor:
    from_batches = []
    for batch in question_batches(questions, anatomy.device):
        rows, _ = activations(anatomy, batch, [site], side)
        from_batches.append(rows[site][torch.arange(batch.rows), batch.last].float())
    return torch.cat(from_batches)
