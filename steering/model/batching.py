"""Batches of ragged texts: sorted by length, bounded by a token budget, padded only inside a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.model.tokens import Tokens

TOKEN_BUDGET = 1024  # throughput saturates from about 512 tokens a batch on two cores (measured)
FULL_ENOUGH = 256  # within 5% of that: from here on, padding is the only thing a batch can still waste
ALIKE = 0.8  # a text shorter than this share of the batch's longest opens a new batch once the batch is full enough


def batches(lengths: Sequence[int], budget: int = TOKEN_BUDGET) -> Iterator[list[int]]:
    """Indices in batches of like length, each at most `budget` tokens with its padding (or one text alone)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in order:
        longest = lengths[batch[0]] if batch else lengths[i]
        filled = longest * len(batch)
        if batch and (filled + longest > budget or (filled >= FULL_ENOUGH and lengths[i] < ALIKE * longest)):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@dataclass(frozen=True)
class Padded:
    """ids, mask, positions: `[b s]`; positions count real tokens from 0 (0 at padding)."""

    ids: Tensor
    mask: Tensor
    positions: Tensor


def pad_left(rows: Sequence[Sequence[int] | np.ndarray], device: torch.device, fill: int = 0) -> Padded:
    """Padding before the texts, so that generation continues every row at its end."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fill)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for k, row in enumerate(rows):
        ids[k, width - len(row) :] = torch.as_tensor(row)
        mask[k, width - len(row) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Padded(ids.to(device), mask.to(device), positions.to(device))


def pad_right(rows: Sequence[Tokens], device: torch.device, fill: int = 0) -> Tensor:
    """`[b s]` ids with padding behind the texts: under causal attention no real token ever sees it, so no mask is
    needed and the fast attention kernels stay in use."""
    ids = torch.full((len(rows), max(len(row) for row in rows)), fill)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.from_numpy(row.ids)
    return ids.to(device)
