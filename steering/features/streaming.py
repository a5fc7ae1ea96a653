"""SNMF of rows that do not fit in memory: one pass over row blocks an iteration.

F needs only sums over rows, X^T G `[d k]` and G^T G `[k k]`, kept in float64; each block's G is updated as the block
passes. It is the loop of `snmf.py`, so it agrees with the fit in memory up to the order of sums. What is held: one
block, and G twice (the best one survives), in memory or in files of a scratch folder.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from trimtab.steering.features.blocks import RowBlocks, survey
from trimtab.steering.features.snmf import SNMF, Buffers, Factors, Progress, factorise

DEFAULT = SNMF()


def fit_streaming(
    blocks: RowBlocks,
    settings: SNMF = DEFAULT,
    progress: Progress | None = None,
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
