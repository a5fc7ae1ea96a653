"""Ablated runs: a model's metric on questions with sets of units ablated; many sets run as copies of the rows in one
forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.steering.ablation.operators import REFERRING, Operator, ReferenceRuns, Replacement, replacement
from trimtab.steering.causal.patching import Measure, metric
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question, question_batches
from trimtab.steering.causal.units import Unit
from trimtab.steering.errors import BadSite
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import Look, PatternChange, attending
from trimtab.steering.model.hooks import Edit, hooked
from trimtab.steering.model.site import Site

Set = Sequence[Unit]


@dataclass(frozen=True, eq=False)
class Ablator:
    """A model with an operator, for ablating sets of units. reference: activations that mean and resample put in (of
    other questions than those that are measured). budget: tokens of a forward pass."""

    anatomy: Anatomy
    operator: Operator = Operator("zero")
    reference: ReferenceRuns | None = None
    budget: int = PASS_BUDGET

    @classmethod
    def of(
        cls, anatomy: Anatomy, operator: "Operator | str", questions: Sequence[Question], units: Sequence[Unit]
    ) -> "Ablator":
        """With the reference that the operator needs, from `questions`, for these units."""
        operation = Operator.parse(operator)
        sites = list(dict.fromkeys(part.site for unit in units for part in unit.parts))
        reference = ReferenceRuns.of(anatomy, questions, sites) if operation.name in REFERRING else None
        return cls(anatomy, operation, reference)

    def metrics(
        self, questions: Sequence[Question], sets: Sequence[Set], measure: Measure = metric
    ) -> Float[np.ndarray, "sets questions"]:
        """`[sets questions]`, the measure (by default the questions' metric, nats) of every question with each set
        ablated. An empty set leaves the model unchanged."""
        measures = np.empty((len(sets), len(questions)))
        device = self.anatomy.device
        for batch in question_batches(questions, device, self.budget):
            for numbers, rows, logits in self.passes(batch, questions, sets):
                values = measure(rows, logits).reshape(len(numbers), -1).double().cpu().numpy()
                measures[np.ix_(numbers, batch.numbers)] = values
        return measures

    def passes(
        self, batch: Batch, questions: Sequence[Question], sets: Sequence[Set]
    ) -> Iterator[tuple[list[int], Batch, Float[Tensor, "n v"]]]:
        """(numbers of sets, their tiled rows, logits) of one forward pass after another."""
        put = replacement(self.operator, self.reference, self.anatomy, batch, questions)
        put.prepare(list(dict.fromkeys(part.site for one in sets for unit in one for part in unit.parts)))
        fit = max(1, self.budget // batch.clean.numel())
        for at in range(0, len(sets), fit):
            numbers = list(range(at, min(at + fit, len(sets))))
            rows = batch.tiled(len(numbers))
            with torch.no_grad(), self._without([sets[k] for k in numbers], put):
                logits = rows.logits(self.anatomy.model)
            yield numbers, rows, logits

    @contextmanager
    def _without(self, sets: Sequence[Set], put: Replacement) -> Iterator[None]:
        with ExitStack() as stack:
            if self.operator.name == "uniform":
                masks = _head_masks(self.anatomy, sets)
                if masks:
                    stack.enter_context(attending(self.anatomy, _levelled(masks, len(sets))))
            else:
                stack.enter_context(hooked(self.anatomy, edits=_edits(self.anatomy, sets, put)))
            yield


def _edits(anatomy: Anatomy, sets: Sequence[Set], put: Replacement) -> list[tuple[Site, Edit]]:
    """One edit per site that any set touches."""
    masks: dict[Site, Bool[Tensor, "copies d"]] = {}
    bases: dict[Site, list[tuple[int, Tensor]]] = {}
    for copy, units in enumerate(sets):
        for part in (part for unit in units for part in unit.parts):
            if part.site not in masks:
                masks[part.site] = torch.zeros(len(sets), anatomy.width(part.site), dtype=torch.bool)
            if part.basis is not None:
                bases.setdefault(part.site, []).append((copy, part.basis))
            else:
                masks[part.site][copy, slice(*(part.columns or (None,)))] = True
    return [(site, _edit(site, masks[site], bases.get(site, []), put)) for site in masks]


def _edit(site: Site, mask: Tensor, bases: Sequence[tuple[int, Tensor]], put: Replacement) -> Edit:
    def edit(h: Tensor) -> Tensor:
        view = h.reshape(len(mask), -1, *h.shape[1:])
        new = put.at(site, view)
        edited = torch.where(mask.to(h.device)[:, None, None], new, view)
        spread = new.expand_as(view)
        for copy, basis in bases:
            rows = basis.to(h.device, h.dtype)
            edited[copy] += ((spread[copy] - view[copy]) @ rows.T) @ rows
        return edited.reshape(h.shape)

    return edit


def _head_masks(anatomy: Anatomy, sets: Sequence[Set]) -> dict[int, Bool[Tensor, "copies h"]]:
    """By block, which copies' heads get uniform attention. Raises BadSite for units that have no attention pattern."""
    masks: dict[int, Tensor] = {}
    for copy, units in enumerate(sets):
        for unit in units:
            if not unit.heads:
                raise BadSite(f"{unit.name} has no attention pattern: operator 'uniform' is for heads; use mean")
            for block, head in unit.heads:
                masks.setdefault(block, torch.zeros(len(sets), anatomy.n_heads, dtype=torch.bool))[copy, head] = True
    return masks


def _levelled(masks: dict[int, Tensor], copies: int) -> PatternChange:
    def change(look: Look) -> Tensor | None:
        if look.block not in masks:
            return None
        mask = masks[look.block].to(look.pattern.device)
        per_row = mask.repeat_interleave(look.pattern.shape[0] // copies, 0)[..., None, None]
        return torch.where(per_row, look.uniform(), look.pattern)

    return change
