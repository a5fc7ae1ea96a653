"""SNMF of rows that do not fit in memory: each iteration is one pass over blocks of rows.

F needs only the sums X^T G `[d k]` and G^T G `[k k]` over all rows, in float64; each block's G is updated when the
block is read. This is the loop of `snmf.py`, so the result equals the fit in memory up to the order of summation.
Memory holds one block, and G twice (the current and the best), the latter optionally in files of a scratch folder.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from trimtab.steering.features.blocks import RowBlocks, survey
from trimtab.steering.features.snmf import SNMF, Buffers, Factors, IterationProgress, factorise

DEFAULT = SNMF()


def fit_streaming(
    blocks: RowBlocks,
    settings: SNMF = DEFAULT,
    progress: IterationProgress | None = None,
    device: "torch.device | str | None" = None,
    scratch: "str | Path | None" = None,
) -> Factors:
    """Factorise blocks `[m d]` that can be read again and again, in the same order.

    device: where blocks are worked on (by default where they are). scratch: folder for G, which takes 8 n k bytes
    there; by default it is in memory. The returned activations are then backed by a file that is already unlinked
    from the folder. Raises BadRows (see `survey`; also when a later pass gives other rows).
    """
    data = survey(blocks, device)
    if scratch is None:
        buffers = Buffers(torch.empty(data.n, settings.rank), torch.empty(data.n, settings.rank))
        return factorise(data, settings, buffers, progress)
    with TemporaryDirectory(dir=scratch, prefix="snmf-") as folder:
        one, other = (_on_disk(Path(folder) / name, data.n, settings.rank) for name in ("one", "other"))
        return factorise(data, settings, Buffers(one, other), progress)


def _on_disk(path: Path, n: int, k: int) -> Tensor:
    """A float32 tensor whose pages the system may write out."""
    return torch.from_file(str(path), shared=True, size=n * k).view(n, k)
