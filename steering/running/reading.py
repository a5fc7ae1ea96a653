"""Capture: rows of activations at chosen sites and tokens, from forward passes that stop after the deepest site.

The head never runs, blocks behind the deepest site never run, texts are batched by length, and padding is dropped
before anything is kept. A read that did not fire raises: a silent gap would be a wrong row.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.errors import BadSpan, SilentNoOp
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import batches, pad_right
from trimtab.steering.model.hooks import StopForward, hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, Positions, Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running.copying import Copies
from trimtab.steering.running.prefix_tree import Node, prefix_tree, run_tree, tokens_in

WORTH_SHARING = 0.9  # of the tokens given: continuing a cache needs a mask, which costs a little


@dataclass(frozen=True)
class Selection:
    """Which rows of a text are kept: the tokens of `span`, or their mean as one row (pool="mean")."""

    span: Span = ALL
    pool: str | None = None

    def tokens(self, text: Tokens) -> Tensor:
        """Indices of the kept tokens of one text. Raises BadSpan when there are none."""
        index = torch.arange(len(text))[None]
        mask = self.span.mask(Positions(index, torch.tensor([text.prompt_length])))[0]
        kept = mask.nonzero()[:, 0]
        if len(kept) == 0:
            raise BadSpan(
                f"span '{self.span}' selects no token of a text with {text.prompt_length} prompt and "
                f"{len(text) - text.prompt_length} further tokens; give completions, or another span"
            )
        return kept

    def rows(self, text: Tokens) -> int:
        """How many rows the text gives."""
        return 1 if self.pool else len(self.tokens(text))


@dataclass(frozen=True, eq=False)
class Wanted:
    """What one pass brings, run after run. texts: whose rows they are. firsts: where the run begins in its text's kept
    rows. counts: rows of the run. rows, columns: `[n]`, where the tokens stand in the pass."""

    texts: list[int]
    firsts: list[int]
    counts: list[int]
    rows: Tensor
    columns: Tensor


Sink = Callable[[Site, Wanted, Tensor], None]  # a site, which rows, and the rows `[sum(counts) d]` on the CPU


@dataclass(frozen=True)
class Counted:
    """computed, given: tokens run through the model, and tokens of the texts."""

    computed: int
    given: int


@dataclass(frozen=True, eq=False)
class Captured(Counted):
    """rows: per site and text `[rows d]` in the forward's dtype, on the CPU, in the order of the texts; the z of all
    heads is `[rows n_heads*d_head]`."""

    rows: Mapping[Site, list[Tensor]]


def capture(
    anatomy: Anatomy,
    texts: Sequence[Tokens],
    sites: Sequence[Site],
    selection: Selection = Selection(),
    share: bool = True,
) -> Captured:
    """Rows of every text, in memory. share: run common beginnings once (results equal within the dtype's tolerance).

    Raises BadSite, BadSpan, SilentNoOp.
    """
    pieces: dict[Site, list[list[Tensor]]] = {site: [[] for _ in texts] for site in sites}

    def keep(site: Site, wanted: Wanted, rows: Tensor) -> None:
        for text, part in zip(wanted.texts, rows.split(wanted.counts), strict=True):
            pieces[site][text].append(part)

    counted = stream(anatomy, texts, sites, selection, keep, share)
    rows = {site: [_joined(parts) for parts in per_text] for site, per_text in pieces.items()}
    return Captured(counted.computed, counted.given, rows)


def stream(
    anatomy: Anatomy,
    texts: Sequence[Tokens],
    sites: Sequence[Site],
    selection: Selection,
    sink: Sink,
    share: bool = True,
) -> Counted:
    """Give every row to `sink` as soon as its pass is over; nothing is kept. A text's runs come in order.

    Raises BadSite, BadSpan, SilentNoOp, and what the sink raises.
    """
    given = sum(len(text) for text in texts)
    roots = prefix_tree(texts) if share and anatomy.can_share_prefixes else []
    computed = tokens_in(roots) if roots else given
    if computed > WORTH_SHARING * given:
        roots, computed = [], given
    kept = [selection.tokens(text).numpy() for text in texts]
    sink = sink if selection.pool is None else Pooling(sink, [len(tokens) for tokens in kept])
    device = anatomy.device
    reading = Reading(anatomy, tuple(sites), kept, sink, Copies(device))
    if roots:
        run_tree(roots, texts, device, reading.run)
    for batch in [] if roots else batches([len(text) for text in texts]):
        whole = [Node(0, len(texts[i]), [i]) for i in batch]
        ids = pad_right([texts[i] for i in batch], device)
        reading.run(whole, {"input_ids": ids, "use_cache": False})
    reading.hand_over(behind=0)
    return Counted(computed, given)


@dataclass(frozen=True, eq=False)
class Reading:
    """Forward passes over nodes of texts whose kept tokens' rows go to the sink, on CUDA one pass behind the forward.

    kept: per text, the token indices to keep.
    """

    anatomy: Anatomy
    sites: tuple[Site, ...]
    kept: Sequence[np.ndarray]
    sink: Sink
    copies: Copies
    _passes: deque = field(default_factory=deque)

    @property
    def in_order(self) -> list[Site]:
        """The site that exists last comes last: nothing needs to run after it."""
        deepest = max(self.sites, key=lambda site: (self.anatomy.depth(site), site.point == "resid_post"))
        return [site for site in self.sites if site != deepest] + [deepest]

    def run(self, nodes: Sequence[Node], arguments: Mapping[str, object]) -> None:
        """One pass over the nodes' tokens `[len(nodes), longest]`; stops after the deepest site."""
        wanted = self._wanted(nodes)
        taken: dict[Site, Tensor] = {}

        def reader(site: Site):
            def read(h: Tensor) -> None:
                taken[site] = self.copies.take(h[wanted.rows, wanted.columns])  # one gather a site
                if len(taken) == len(self.sites):
                    raise StopForward

            return read

        reads = [(site, reader(site)) for site in self.in_order]
        with torch.inference_mode(), hooked(self.anatomy, reads=reads), contextlib.suppress(StopForward):
            self.anatomy.base(**arguments)
        missing = [str(site) for site in self.sites if site not in taken]
        if missing:
            raise SilentNoOp(f"nothing was read at {', '.join(missing)}: the model skipped it or was compiled before")
        self._passes.append((wanted, taken, self.copies.mark()))
        self.hand_over(behind=self.copies.ahead)

    def hand_over(self, behind: int) -> None:
        """Give the oldest passes' rows to the sink until `behind` are left."""
        while len(self._passes) > behind:
            wanted, taken, mark = self._passes.popleft()
            self.copies.done(mark)
            for site in self.sites:
                self.sink(site, wanted, taken[site])

    def _wanted(self, nodes: Sequence[Node]) -> Wanted:
        """Where a pass over these nodes holds kept tokens, text after text."""
        found = [(row, text, *self._local(node, text)) for row, node in enumerate(nodes) for text in node.texts]
        found = [entry for entry in found if len(entry[3])]
        return Wanted(
            [text for _, text, _, _ in found],
            [first for _, _, first, _ in found],
            [len(columns) for _, _, _, columns in found],
            self._index([np.full(len(columns), row) for row, _, _, columns in found]),
            self._index([columns for _, _, _, columns in found]),
        )

    def _local(self, node: Node, text: int) -> tuple[int, np.ndarray]:
        """Which of a text's kept tokens a node holds: the first one's number, and their columns."""
        first, last = np.searchsorted(self.kept[text], (node.start, node.stop))
        return int(first), self.kept[text][first:last] - node.start

    def _index(self, parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *parts])).to(self.copies.device)


@dataclass(frozen=True, eq=False)
class Pooling:
    """A sink that hands on one row per text: the mean of its kept rows, once all of them have come. counts: per text.

    The sum is taken in float64: massive activations of sink tokens would eat a float32 sum's last digits.
    """

    sink: Sink
    counts: Sequence[int]
    _sums: dict[tuple[Site, int], tuple[int, Tensor]] = field(default_factory=dict)

    def __call__(self, site: Site, wanted: Wanted, rows: Tensor) -> None:
        done, means = [], []
        for text, part in zip(wanted.texts, rows.split(wanted.counts), strict=True):
            before, total = self._sums.pop((site, text), (0, torch.zeros((), dtype=torch.float64)))
            count, total = before + len(part), total + part.double().sum(0)
            if count < self.counts[text]:
                self._sums[site, text] = (count, total)
            else:
                done.append(text)
                means.append((total / count).to(rows.dtype))
        if done:
            ones = [1] * len(done)
            self.sink(site, Wanted(done, [0] * len(done), ones, wanted.rows, wanted.columns), torch.stack(means))


def _joined(pieces: list[Tensor]) -> Tensor:
    """A text in one piece is not copied again: fresh memory is what capture costs besides the forward pass."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
