"""Runs regions of a capture through the model and writes them to its store. While a second thread hashes, writes and
commits one region, the model runs the next, so at most two regions are in memory."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.running.reading import PassRows, Rows, TokenCounts, stream
from trimtab.store import ActivationStore
from trimtab.store.captures.buffer import RegionBuffer
from trimtab.store.captures.schema import Region
from trimtab.store.captures.writing import Fork
from trimtab.tasks.collecting.spool import Spool
from trimtab.tasks.progress import report

STAGE = "capturing activations"
_FORWARD = threading.Lock()  # hooks sit on the model, which threads share: one of them runs it at a time


@dataclass(frozen=True, eq=False)
class Collection:
    """Everything needed to collect regions. store: where rows are written. selection: which tokens' rows are
    captured."""

    store: ActivationStore
    anatomy: Anatomy
    texts: Spool
    selection: Rows


def fill(work: Collection, regions: Sequence[Region]) -> TokenCounts:
    """Collect these regions, each in a commit of its own; returns the tokens run, and those of the regions' texts.

    Raises what the model or the store raises; regions that were committed before stay.
    """
    return _run(work, regions, work.store.commit)


def refill(work: Collection, regions: Sequence[Region]) -> TokenCounts:
    """Collect regions of a finished capture once more, and put them in the place of damaged ones in one commit.

    Raises Mismatch when their rows are not those that were recorded.
    """
    forks: list[Fork] = []

    def lay(buffer: RegionBuffer) -> None:
        forks.append(work.store.fork())
        forks[-1].write(buffer)

    counted = _run(work, regions, lay)
    work.store.rewrite(forks)
    return counted


def _run(work: Collection, regions: Sequence[Region], commit: Callable[[RegionBuffer], object]) -> TokenCounts:
    sites = [Site.parse(name) for name in work.store.sites]
    pending = {region.number: region for region in (*work.store.pending_regions(), *regions)}
    done = len(work.texts) - sum(region.prompt_stop - region.prompt_start for region in pending.values())
    computed, text_tokens = 0, 0
    with Committer(commit) as committer:
        for region in regions:
            texts = work.texts.read(region.prompt_start, region.prompt_stop)
            rows = work.texts.rows(region.prompt_start, region.prompt_stop)
            buffer = work.store.buffer(region)
            progress = _Progress(done, len(texts), len(work.texts))
            with _FORWARD:
                into = _Into(buffer, region.row_start + np.cumsum(rows) - rows, sites[-1], progress)
                counted = stream(work.anatomy, texts, sites, work.selection, into)
            committer.commit(buffer)
            computed, text_tokens, done = computed + counted.computed, text_tokens + counted.total, done + len(texts)
    report(STAGE, done, len(work.texts))
    return TokenCounts(computed, text_tokens)


class Committer:
    """Commits buffers on a thread of its own, one at a time. `commit` waits for the previous commit and raises its
    error; leaving the `with` block does the same for the last one."""

    def __init__(self, commit: Callable[[RegionBuffer], object]) -> None:
        self._commit = commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._last: Future | None = None

    def __enter__(self) -> "Committer":
        return self

    def commit(self, buffer: RegionBuffer) -> None:
        """Queue a full buffer."""
        self._wait()
        self._last = self._thread.submit(self._commit, buffer)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._thread.shutdown()


@dataclass(eq=False)
class _Progress:
    """Texts done: those of earlier regions, and this region's by its share of rows."""

    before: int
    texts: int
    total: int
    rows: int = 0

    def add(self, rows: int, of: int) -> None:
        self.rows += rows
        report(STAGE, self.before + self.texts * self.rows // max(1, of), self.total)


@dataclass(eq=False)
class _Into:
    """A sink that puts rows where they belong in a region's buffer. starts: [texts] each text's first row. last: the
    site that comes last in every pass."""

    buffer: RegionBuffer
    starts: np.ndarray
    last: Site
    progress: _Progress
    _of: PassRows | None = field(default=None, init=False)
    _numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), init=False)

    def __call__(self, site: Site, which: PassRows, rows: Tensor) -> None:
        numbers = self._rows_of(which)
        spec = self.buffer.specs[str(site)]
        self.buffer.write(str(site), numbers, _as_numpy(rows, spec.dtype).reshape(len(rows), *spec.shape))
        if site == self.last:
            self.progress.add(len(rows), self.buffer.region.n_rows)

    def _rows_of(self, which: PassRows) -> np.ndarray:
        """Row numbers of one pass, the same for all of its sites."""
        if self._of is not which:
            firsts = self.starts[which.texts] + np.asarray(which.firsts)
            runs = [np.arange(first, first + count) for first, count in zip(firsts, which.counts, strict=True)]
            self._of, self._numbers = which, np.concatenate([np.empty(0, np.int64), *runs])
        return self._numbers


def _as_numpy(rows: Tensor, stored: str) -> np.ndarray:
    """bfloat16, which numpy lacks, as its bits where it is stored as such, otherwise as float32 (exact)."""
    if rows.dtype != torch.bfloat16:
        return rows.numpy()
    return rows.view(torch.uint16).numpy() if stored == "bfloat16" else rows.float().numpy()
