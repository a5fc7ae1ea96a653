"""Rows of a capture as PyTorch datasets: an epoch in seeded random order, shared between a DataLoader's workers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trimtab.store import ActivationStore, Where
from trimtab.store.captures.epochs import Epoch


@dataclass(eq=False)
class RowBatches(IterableDataset):
    """Batches float32 `[<= size d]` of the rows of one site; every selected row once an epoch, each epoch in another
    order. Special tokens, such as an attention sink at the first position, are left out unless `where` says otherwise.

    url: where the capture lies. A dataset pickles; the store is opened by whoever reads it.
    """

    url: str
    site: str
    order: Epoch
    where: Where = field(default_factory=lambda: Where(special=False))
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Read the order of this epoch (from 0) from the next iteration on; without it every epoch is the same."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        part, of = (worker.id, worker.num_workers) if worker else (0, 1)
        order = replace(self.order, seed=self.order.seed + 1_000_003 * self.epoch, part=part, of=of)
        for batch in ActivationStore.open(self.url).epoch(self.site, order, self.where):
            yield torch.from_numpy(batch).flatten(1)


def loader(rows: RowBatches, workers: int = 0) -> DataLoader:
    """A DataLoader over the dataset's own batches. Workers are spawned: the storage library's threads do not survive a
    fork."""
    context = "spawn" if workers else None
    return DataLoader(rows, batch_size=None, num_workers=workers, multiprocessing_context=context)
