"""Rows of a capture for a factorisation: in memory when they fit, else as blocks that are read again every pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.features.blocks import BLOCK
from trimtab.steering.features.snmf import SNMF, Factors, IterationProgress, fit_snmf
from trimtab.steering.features.streaming import fit_streaming
from trimtab.store import ActivationStore
from trimtab.store.captures.where import Where

IN_MEMORY = 2**30  # bytes of rows


@dataclass(frozen=True, eq=False)
class StoredBlocks:
    """The rows of some texts, from the store each time it is iterated."""

    store: ActivationStore
    site: str
    where: Where

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.store.batches(self.site, BLOCK, self.where):
            yield block.reshape(len(block), -1)


def prompts_in(store: ActivationStore, splits: Sequence[str]) -> np.ndarray:
    """Numbers of the texts in these splits, ascending."""
    return np.flatnonzero(np.isin(store.index.split, list(splits)))


def rows_in(store: ActivationStore, site: str, splits: Sequence[str]) -> Tensor:
    """Their rows, `[n d]` float32."""
    rows = store.rows(site, Where(prompts=prompts_in(store, splits).tolist()))
    return torch.from_numpy(rows.reshape(len(rows), -1))


def fit_rows(
    store: ActivationStore, site: str, splits: Sequence[str], settings: SNMF, progress: IterationProgress | None = None
) -> Factors:
    """Factorise the rows of some splits, out of core when they are more than a GiB."""
    where = Where(prompts=prompts_in(store, splits).tolist())
    count = int(where.row_mask(store.index).sum())
    width = next(int(np.prod(spec.shape)) for spec in store.layout.specs if spec.name == site)
    if 4 * count * width <= IN_MEMORY:
        return fit_snmf(rows_in(store, site, splits), settings, progress)
    return fit_streaming(StoredBlocks(store, site, where), settings, progress)
